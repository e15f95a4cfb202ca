"""Text as a syntax tree, measured before the parser sees it: deep nesting would take all time or the C stack."""

from __future__ import annotations

import ast
import re
import warnings

from bdscan.facts.problem import plain
from bdscan.load.code.refusal import NotFollowed

MAX_TEXT = 1 << 20  # characters; the longest of torchvision's sources has 40 thousand
_MAX_DEPTH = 150  # brackets, and operators in a row; CPython's parser takes some 900 before it takes very long
_MAX_LAMBDAS = 100  # in one statement: each may stand in the one before, behind a comma
_MAX_ELIFS = 400  # in a text: each stands in the one before
_TOKENS = re.compile(
    r"""
      (?P<space>(?:[\ \t\f\r]|\\\r?\n)+ | \#[^\n]*)
    | (?P<string>(?P<prefix>[rbufRBUF]{0,2})
        (?:\"\"\"(?:[^"\\]|\\.|"(?!""))*\"\"\" | '''(?:[^'\\]|\\.|'(?!''))*'''
         | "(?!"")(?:[^"\\\n]|\\.)*" | '(?!'')(?:[^'\\\n]|\\.)*'))
    | (?P<broken>["'])
    | (?P<word>\w[\w]*)
    | (?P<open>[(\[{]) | (?P<close>[)\]}])
    | (?P<line>\n) | (?P<comma>[,;])
    | (?P<sign>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_JOINING = frozenset(["not", "lambda", "if", "else", "and", "or", "in", "is", "for", "await", "yield"])


def parse(text: str, file: str, most: int = MAX_TEXT) -> ast.Module:
    """The tree of a text of at most so many characters; `file` is for messages."""
    if len(text) > most:
        raise NotFollowed(f"`{file}` has {len(text):,} characters, more than any net's source")
    _measure(text, file)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes in strings that Python will not take some day
            return ast.parse(text)
    except SyntaxError as error:
        raise NotFollowed(f"`{file}`, line {error.lineno}: it is no Python ({plain(error.msg)})") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise NotFollowed(f"`{file}` cannot be parsed: {type(error).__name__}") from None


def _measure(text: str, file: str) -> None:
    """Refuses what nests deeper than any source."""
    depth = _Depth()
    for token in _TOKENS.finditer(text):
        if token.lastgroup == "broken":
            raise NotFollowed(f"`{file}` has a string without an end")
        depth.take(str(token.lastgroup), token)
        if depth.total > _MAX_DEPTH or depth.lambdas > _MAX_LAMBDAS or depth.elifs > _MAX_ELIFS:
            line = text.count("\n", 0, token.start()) + 1
            raise NotFollowed(f"`{file}`, line {line}: it is nested too deeply")


class _Depth:
    """How deeply the tree of a text nests at most: a chain of operators nests as brackets do."""

    def __init__(self) -> None:
        self.chains = [0]  # operators in a row, within each open bracket
        self.total = self.lambdas = self.elifs = 0

    def take(self, kind: str, token: re.Match[str]) -> None:
        word = token[0]
        if kind == "open":
            self.chains.append(0)
            self._join(1)
        elif kind == "close" and len(self.chains) > 1:
            self.total -= self.chains.pop()
            self._join(1)
        elif kind == "comma" or (kind == "line" and len(self.chains) == 1):
            self.total -= self.chains[-1]
            self.chains[-1] = 0
            self.lambdas = self.lambdas if kind == "comma" else 0
        elif kind == "sign" or word in _JOINING:
            self._join(1)
            self.lambdas += word == "lambda"
        elif kind == "string" and "f" in token["prefix"].lower():
            self._join(len(re.findall(r"[^\w\s]|lambda|not|if", word)) // 8)
        self.elifs += word == "elif"

    def _join(self, count: int) -> None:
        self.chains[-1] += count
        self.total += count
