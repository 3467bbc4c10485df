"""The login page in a real browser: Swagger UI's Authorize button, and redirect URIs that nobody registered."""

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import urlencode

import httpx
import pytest
from browsers import open_browser
from selenium.webdriver.common.by import By
from selenium.webdriver.support.expected_conditions import number_of_windows_to_be
from selenium.webdriver.support.ui import WebDriverWait
from servers import free_port, start

PATIENCE = 30


@pytest.fixture
def evil():
    """Somebody else's server: its port, and the paths that were asked for."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port, asked
    server.shutdown()
    server.server_close()


@pytest.fixture
def browser(tmp_path, evil):
    rules = ",".join(f"MAP {name}:80 127.0.0.1:{evil[0]}" for name in ("evil.example", "*.evil.example"))
    with open_browser(tmp_path, "--window-size=1200,1600", f"--host-resolver-rules={rules}") as driver:
        yield driver


@pytest.fixture
def docs():
    port = free_port()
    command = [sys.executable, "-m", "ticketgate", "demo", "--port", port, "--issuer-port", free_port()]
    with start(command, port=port) as api:
        yield f"{api}/docs"


def test_the_authorize_button_signs_in_and_operations_work(browser, docs):
    def wait_for(what):
        return WebDriverWait(browser, PATIENCE).until(what)

    def find(css):
        return wait_for(lambda driver: next(iter(driver.find_elements(By.CSS_SELECTOR, css)), None))

    def click(css):
        element = find(css)
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
        wait_for(lambda _: element.is_enabled() and element.is_displayed())
        element.click()

    browser.get(docs)
    click(".auth-wrapper .authorize")
    assert (
        find("input[data-name=clientId], #client_id_authorizationCode").get_attribute("value") == "swagger-ui"
    )
    click("label[for*='orders:read']")
    main = browser.current_window_handle
    click(".auth-btn-wrapper .authorize")

    wait_for(number_of_windows_to_be(2))
    (other,) = set(browser.window_handles) - {main}
    browser.switch_to.window(other)
    assert "orders:read" in find("ul").text
    find("#username").send_keys("alice")
    find("#password").send_keys("alice-secret")
    click("button[value=allow]")

    wait_for(number_of_windows_to_be(1))
    browser.switch_to.window(main)
    wait_for(lambda driver: "Logout" in driver.find_element(By.CSS_SELECTOR, ".auth-btn-wrapper").text)
    click(".auth-btn-wrapper .btn-done")

    def call(method):
        """The status that Swagger UI shows for this operation on /orders."""
        block = f".opblock-{method}:has([data-path='/orders'])"
        for button in (".opblock-summary-control", ".try-out__btn", ".execute"):
            click(f"{block} {button}")
        return find(f"{block} .live-responses-table .response .response-col_status").text.split()[0]

    assert (call("get"), call("post")) == ("200", "403")


NOT_REGISTERED = [
    "http://*;.evil.example\\@127.0.0.1/docs/oauth2-redirect",  # would rewrite the page's content security policy, too
    "http://evil.example\\@127.0.0.1/docs/oauth2-redirect",
    "http://evil.example;@127.0.0.1/docs/oauth2-redirect",
    "http://evil.example/?@127.0.0.1/docs/oauth2-redirect",
    "http://127.0.0.1@evil.example/docs/oauth2-redirect",
    "http://evil.example/docs/oauth2-redirect",
]


def test_no_code_leaves_for_an_origin_that_is_not_registered(browser, docs, evil):
    browser.get("http://evil.example/here-it-is")  # the browser can reach it
    document = httpx.get(docs.removesuffix("/docs") + "/openapi.json").json()
    flows = document["components"]["securitySchemes"]["accessToken"]["flows"]
    for redirect_uri in NOT_REGISTERED:
        asked = {
            "response_type": "code",
            "client_id": "swagger-ui",
            "redirect_uri": redirect_uri,
            "code_challenge": "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM",
            "code_challenge_method": "S256",
        }
        browser.get(f"{flows['authorizationCode']['authorizationUrl']}?{urlencode(asked)}")
        for name, text in (("username", "alice"), ("password", "alice-secret")):
            for field in browser.find_elements(By.ID, name):
                field.send_keys(text)
        for button in browser.find_elements(By.CSS_SELECTOR, "button[value=allow]"):
            button.click()
        assert "not registered" in browser.page_source
    assert "/here-it-is" in evil[1]
    assert [path for path in evil[1] if "code=" in path] == []
