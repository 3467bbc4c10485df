"""An issuer and a sample API on loopback, to see the gate open and close."""
