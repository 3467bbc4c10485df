"""The names of the grants that are asked for on one side and answered on the other.

RFC 6749 §4.1.3 and §4.4, RFC 7523 §2.1, RFC 8693 §2.1.
"""

AUTHORIZATION_CODE = "authorization_code"
CLIENT_CREDENTIALS = "client_credentials"
JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
