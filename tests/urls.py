"""URLs that Python and browsers (WHATWG URL) read differently, or that people do."""

READ_DIFFERENTLY = [
    # what Python's urlsplit makes of it, and what a browser does
    "http://evil.example\\@127.0.0.1/cb",  # 127.0.0.1, evil.example
    "http://127.0.0.1\\@evil.example/cb",  # evil.example, 127.0.0.1
    "https://evil.example\\.as.example/",  # a host with a backslash, evil.example
    "http:\\\\127.0.0.1/cb",  # no host, 127.0.0.1
    "https:/\\as.example/",  # no host, as.example
    "https:///as.example/",  # no host, as.example
    "https:as.example/",  # no host, as.example
    "https://user@as.example/",  # userinfo: both the same host, but people read another one
    "https://@as.example/",
    "https://as.example:@evil.example/",
    "https://as.example#@evil.example/",  # as.example for both; older parsers: evil.example
    "https://as.example#",  # an empty fragment, which Python drops
    "https://as.example/?",  # an empty query, which Python drops
    "https://as.example/?#",
    "https://as.example:/",  # an empty port, which browsers drop
    "https://as.example:0/",
    "https://as.example:00/",
    "https://as.example:0443/",  # leading zeros, which browsers drop
    "http://127.0.0.1:0080/cb",
    "http://[::1]:080/cb",
    "https://as.example:65536/",
    "https://as.example:8a/",
    "https://as.example:+80/",
    "https://as\t.example/",  # browsers drop tabs and line ends anywhere
    "https://as.exam\nple/",
    "\thttps://as.example/",
    " https://as.example/",
    "https://as.example/ ",
    "https://as.example/\x00",
    "https://as.example\x7f/",
    "https://as.example%2f.evil.example/",  # browsers decode the host
    "https://%61s.example/",
    "https://as.example;script-src *;/",  # would end the directive of a content security policy
    "https://as.example'/",
    "https://as.example,evil.example/",
    "https://as..example/",
    "https://[::1%25;x]/",
    "https://[v1.x]/",
    "https://[::1/",
    "https://as.examp\u017fe/",  # browsers map other letters to ASCII
    "https://\uff41s.example/",
    "https://as\u3002example/",
    "javascript://as.example/%0aalert(1)",
    "ftp://as.example/",
    "//as.example/",
    "",
]
