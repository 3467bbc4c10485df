"""Templates of routes, like ``/{shelf}/<path:book>``, compared with public paths; for audits and documents.

The application wrote them, so regular expressions may search in them.
"""

import re

PARAMETER = re.compile(r"\\\{[^}]*?(?P<curly>:path)?\\\}|<(?P<angle>path:)?[^>]*>")


def is_opened_by(entry: str, template: str) -> bool:
    """Whether the public ``entry`` opens a path that ``template`` stands for."""
    if not entry.endswith("/*"):
        return template == entry or _pattern(template).fullmatch(entry) is not None
    return template.startswith(entry[:-1]) or _is_below(entry.split("/")[:-1], template.split("/"))


def _is_below(prefix: list[str], parts: list[str]) -> bool:
    """Whether a template in ``parts`` stands for a path below ``prefix``, part by part."""
    for place, (name, part) in enumerate(zip(prefix, parts, strict=False)):
        pattern = _pattern(part)
        if ".*" in pattern.pattern:  # takes any number of parts
            rest = "/".join((*prefix[place:], "x"))
            return _pattern("/".join(parts[place:])).fullmatch(rest) is not None
        if pattern.fullmatch(name) is None:
            return False
    return len(parts) > len(prefix)


def _pattern(template: str) -> re.Pattern[str]:
    escaped = re.escape(template)
    return re.compile(
        PARAMETER.sub(lambda found: ".*" if found["curly"] or found["angle"] else "[^/]+", escaped)
    )
