import os

from flask import Blueprint, Flask
from flask.views import MethodView

from ticketgate import Issuer, ResourceServer, role, scope
from ticketgate.flask import Ticketgate, access_token, requires

server = ResourceServer("https://api.example", Issuer(os.environ["ISSUER"]))
gate = Ticketgate(server=server, public=["/health"])
orders = Blueprint("orders", __name__)


@orders.get("/orders")
@requires(scope("orders:read"))
def list_orders():
    return {"sub": access_token.subject}


class Admin(MethodView):
    @requires(role("admin"))
    def get(self):
        return {"sub": access_token.subject}


def create_app():
    app = Flask(__name__, static_folder=None)
    gate.init_app(app)  # everything but the public paths is closed

    @app.get("/health")
    def health():
        return "well"

    @app.get("/me")
    def me():
        return {"sub": access_token.subject}

    app.register_blueprint(orders)
    app.add_url_rule("/admin", view_func=Admin.as_view("admin"))
    return app
