"""What every character and every token of a Python source is, from `tokenize` and `ast`."""

import ast
import builtins
import contextlib
import io
import keyword
import tokenize
import warnings

import numpy as np
from sklearn.utils import Bunch

from .._core.language.spans import (
    as_spans,
    code_points,
    inside_spans,
    is_space_mask,
    tokens_in_spans,
)
from .._core.language.texts import check_text_sequence

_LABELS = [
    "documentation",
    "comment",
    "docstring",
    "string",
    "number",
    "keyword",
    "keyword_class",
    "keyword_def",
    "keyword_for",
    "keyword_if",
    "keyword_import",
    "keyword_return",
    "operator",
    "assignment",
    "delimiter",
    "opening_bracket",
    "closing_bracket",
    "name",
    "self",
    "upper_case_name",
    "attribute",
    "function_name",
    "class_name",
    "parameter",
    "keyword_argument",
    "call",
    "builtin",
    "exception",
    "import_line",
    "decorator",
    "annotation",
    "newline",
    "indent",
    "dedent",
]
_SINGLE_KEYWORDS = {"class", "def", "for", "if", "import", "return"}
# The operators and delimiters of the language reference, with assignments as operators; "..."
# is a literal.
_OPERATOR_LABELS = {
    operator: labels
    for operators, *labels in [
        ("+ - * ** / // % @ << >> & | ^ ~ < > <= >= == !=", "operator"),
        ("= := += -= *= /= //= %= @= &= |= ^= >>= <<= **=", "operator", "assignment"),
        (", : . ; ->", "delimiter"),
        ("( [ {", "delimiter", "opening_bracket"),
        (") ] }", "delimiter", "closing_bracket"),
        ("...",),
    ]
    for operator in operators.split()
}
_EXCEPTIONS = {
    name
    for name, value in vars(builtins).items()
    if isinstance(value, type) and issubclass(value, BaseException)
}
# Functions and types only: interactive sessions add helpers such as `exit` and `display`.
_BUILTINS = {
    name
    for name, value in vars(builtins).items()
    if isinstance(value, type | type(len)) and not name.startswith("_")
} - _EXCEPTIONS
# From Python 3.12 on f-strings (3.14: template strings) come in pieces; -1 is no token type.
_PIECES_START = {getattr(tokenize, name, -1) for name in ("FSTRING_START", "TSTRING_START")}
_PIECES_END = {getattr(tokenize, name, -1) for name in ("FSTRING_END", "TSTRING_END")}
_LAYOUT = {tokenize.INDENT, tokenize.DEDENT}


def _normalise_line_breaks(text):
    """Turn every line break into one newline character, drop a byte order mark.

    Returns the new text and, for each of its characters (and its end), the index of the same
    character in `text`.
    """
    source = text.replace("\r\n", "\n").replace("\r", "\n").removeprefix("\ufeff")
    if len(source) == len(text):
        return source, np.arange(len(text) + 1)
    codes = code_points(text)
    keep = np.ones(len(text) + 1, dtype=bool)
    keep[:-2] &= (codes[:-1] != ord("\r")) | (codes[1:] != ord("\n"))
    keep[0] &= codes[0] != 0xFEFF
    return source, np.flatnonzero(keep)


class _Lexer:
    """Character spans that follow from the tokens alone.

    Attributes: `spans` (label -> list of spans), `names` (spans of the identifiers, in order),
    `strings`, `indents` and `dedents` (where such a line's first token starts), `stop` (how
    far the text could be read) and `complete` (whether that is all of it).
    """

    def __init__(self, source):
        self.spans = {label: [] for label in _LABELS}
        self.names, self.strings, self.indents, self.dedents = [], [], [], []
        self.stop, self.complete = 0, False
        # A bad token, a bad indentation, a lone surrogate: what stands before it is kept.
        with contextlib.suppress(tokenize.TokenError, SyntaxError, ValueError):
            self._read(source)

    def _read(self, source):
        line_starts = [0]
        for line in io.StringIO(source):
            line_starts.append(line_starts[-1] + len(line))
        line_starts.append(len(source))  # the end marker of a text that ends without newline
        spans = self.spans
        previous, depth, pieces_start, line_end, decorator_start = "", 0, 0, 0, None
        line_is_new = True  # nothing of the logical line was read yet
        for kind, string, start, end, _ in tokenize.generate_tokens(io.StringIO(source).readline):
            start = line_starts[start[0] - 1] + start[1]
            end = line_starts[end[0] - 1] + end[1]
            if kind in _PIECES_START:
                pieces_start = start if depth == 0 else pieces_start
                depth += 1
                continue
            if kind in _PIECES_END:
                depth -= 1
                if depth == 0:
                    kind, start = tokenize.STRING, pieces_start
            if depth > 0:
                continue

            if kind == tokenize.COMMENT:
                spans["comment"].append((start, end))
                self.stop = end
                continue
            if kind == tokenize.NL:
                continue
            if kind == tokenize.NEWLINE:
                if decorator_start is not None:
                    spans["decorator"].append((decorator_start, line_end))
                    decorator_start = None
                line_is_new = True
                continue
            if kind in _LAYOUT:
                (self.indents if kind == tokenize.INDENT else self.dedents).append(end)
                continue
            if kind == tokenize.ENDMARKER:
                self.stop, self.complete = len(source), True
                return

            if kind == tokenize.NAME:
                self._read_name(string, previous, (start, end))
            elif kind == tokenize.STRING:
                self.strings.append((start, end))
            elif kind == tokenize.NUMBER:
                spans["number"].append((start, end))
            elif kind == tokenize.OP and string in _OPERATOR_LABELS:
                for label in _OPERATOR_LABELS[string]:
                    spans[label].append((start, end))
                if string == "@" and line_is_new:
                    decorator_start = start
            else:  # no token of Python's: older tokenizers go on here, newer ones raise
                return
            previous, line_is_new = string, False
            self.stop = line_end = end

    def _read_name(self, string, previous, span):
        spans = self.spans
        if keyword.iskeyword(string):
            spans["keyword"].append(span)
            if string in _SINGLE_KEYWORDS:
                spans[f"keyword_{string}"].append(span)
            return
        self.names.append(span)
        if string == "self":
            spans["self"].append(span)
        elif len(string) > 1 and string.isupper():
            spans["upper_case_name"].append(span)
        if previous == "def":
            spans["function_name"].append(span)
        elif previous == "class":
            spans["class_name"].append(span)


class _Tree:
    """Positions that need the syntax tree; all are (line, column in UTF-8 bytes).

    Attributes: `spans` (label -> list of (start, end)), `starts` and `ends` (label -> list of
    positions where the labelled identifier starts or ends) and `complete`.
    """

    def __init__(self, source):
        self.spans = {"docstring": [], "import_line": [], "annotation": []}
        names = ("parameter", "keyword_argument", "call", "builtin", "exception")
        self.starts = {label: [] for label in names}
        self.ends = {"attribute": [], "call": []}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # invalid escape sequences
                tree = ast.parse(source)
            self.complete = True
        # the parser calls it MemoryError when its own stack is full
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            self.complete = False
            return
        for node in ast.walk(tree):
            self._visit(node)

    def _visit(self, node):
        kind = type(node)
        if kind is ast.Name:
            if type(node.ctx) is ast.Load:
                if node.id in _BUILTINS:
                    self.starts["builtin"].append(_start(node))
                elif node.id in _EXCEPTIONS:
                    self.starts["exception"].append(_start(node))
        elif kind is ast.Attribute:
            self.ends["attribute"].append(_end(node))
        elif kind is ast.Call:
            if type(node.func) is ast.Name:
                self.starts["call"].append(_start(node.func))
            elif type(node.func) is ast.Attribute:
                self.ends["call"].append(_end(node.func))
        elif kind is ast.keyword:
            if node.arg is not None:
                self.starts["keyword_argument"].append(_start(node))
        elif kind is ast.arg:
            self.starts["parameter"].append(_start(node))
            self._add_span("annotation", node.annotation)
        elif kind is ast.AnnAssign:
            self._add_span("annotation", node.annotation)
        elif kind in (ast.Import, ast.ImportFrom):
            self._add_span("import_line", node)
        elif kind in (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Module):
            if ast.get_docstring(node, clean=False) is not None:
                self._add_span("docstring", node.body[0])
            self._add_span("annotation", getattr(node, "returns", None))

    def _add_span(self, label, node):
        if node is not None:
            self.spans[label].append((_start(node), _end(node)))


def _start(node):
    return node.lineno, node.col_offset


def _end(node):
    return node.end_lineno, node.end_col_offset


class _CharacterIndex:
    """From (line, column in UTF-8 bytes) to the index of a character."""

    def __init__(self, source):
        encoded = np.frombuffer(source.encode("utf-8", "surrogatepass"), dtype=np.uint8)
        opens_character = (encoded & 0xC0) != 0x80
        self._character = np.append(np.cumsum(opens_character) - 1, len(source))
        self._line_start = np.append(0, np.flatnonzero(encoded == ord("\n")) + 1)

    def __call__(self, positions):
        """Turn positions of shape (..., 2) into indices of shape (...)."""
        line, column = np.moveaxis(np.asarray(positions, dtype=np.int64), -1, 0)
        return self._character[self._line_start[line - 1] + column]


def _line_break_runs(text):
    """Maximal runs of white space that contain a line break, as spans."""
    is_space = np.concatenate(([False], is_space_mask(text), [False]))
    edges = np.flatnonzero(is_space[1:] != is_space[:-1]).reshape(-1, 2)
    codes = code_points(text)
    n_breaks = np.append(0, np.cumsum((codes == ord("\n")) | (codes == ord("\r"))))
    return edges[n_breaks[edges[:, 1]] > n_breaks[edges[:, 0]]]


def _label_source(text):
    """The spans of each label, and whether all of the text could be read."""
    source, original = _normalise_line_breaks(text)
    lexer, tree = _Lexer(source), _Tree(source)
    spans = {label: as_spans(found) for label, found in lexer.spans.items()}
    names, strings = as_spans(lexer.names), as_spans(lexer.strings)
    spans["name"] = names

    index = _CharacterIndex(source)
    for label, found in tree.spans.items():  # found in the order of the walk
        spans[label] = as_spans(index(sorted(found))) if found else as_spans([])
    for label in {*tree.starts, *tree.ends}:
        chosen = np.zeros(len(names), dtype=bool)
        for column, positions in enumerate((tree.starts, tree.ends)):
            if positions.get(label):
                chosen |= np.isin(names[:, column], index(positions[label]))
        spans[label] = names[chosen]
    is_docstring = inside_spans(spans["docstring"], len(source))[strings[:, 0]]
    spans["docstring"], spans["string"] = strings[is_docstring], strings[~is_docstring]

    # original[end - 1] + 1 and not original[end]: the "\r" before a "\n" stays outside
    spans = {
        label: np.column_stack((original[found[:, 0]], original[found[:, 1] - 1] + 1))
        for label, found in spans.items()
    }
    runs = _line_break_runs(text)
    in_string = inside_spans(np.concatenate((spans["string"], spans["docstring"])), len(text))
    runs = runs[~in_string[runs[:, 0]] & (runs[:, 1] <= original[lexer.stop])]
    followed = runs[:, 1] < len(text)  # what ends the text closes blocks, but no line follows
    spans["newline"] = runs
    spans["indent"] = runs[followed & np.isin(runs[:, 1], original[lexer.indents])]
    spans["dedent"] = runs[followed & np.isin(runs[:, 1], original[lexer.dedents])]
    return spans, lexer.complete and tree.complete


def label_python_spans(text, *, documentation=False):
    """Find what each part of a Python source is: a comment, a keyword, a parameter, ...

    The labels come from the standard library's `tokenize` and `ast` modules. They overlap: the
    ``len`` of ``len(x)`` is a name, a call and a builtin. They are:

    ==================  ==============================================================
    label               what it covers
    ==================  ==============================================================
    documentation       the whole text, if it is given as documentation
    comment             a comment from its ``#`` to the end of its line
    docstring           the string that documents a module, a class or a function
    string              any other string literal, with prefix, quotes and, in an
                        f-string, the replacement fields
    number              a numeric literal
    keyword             a reserved word, ``None``, ``True`` and ``False`` among them
    keyword_class       the keyword ``class``
    keyword_def         the keyword ``def``
    keyword_for         the keyword ``for``, of a statement or a comprehension
    keyword_if          the keyword ``if``, of a statement, an expression or a
                        comprehension
    keyword_import      the keyword ``import``
    keyword_return      the keyword ``return``
    operator            an arithmetic, bitwise, comparison or assignment operator,
                        also where it stands for something else (``*args``, ``@``)
    assignment          ``=``, ``:=`` or an augmented assignment such as ``+=``, also
                        before a default or the value of a keyword argument
    delimiter           a bracket, a comma, a colon, a dot, a semicolon or an arrow
    opening_bracket     ``(``, ``[`` or ``{``
    closing_bracket     ``)``, ``]`` or ``}``
    name                an identifier: any word of code that is not reserved
    self                the identifier ``self``
    upper_case_name     an identifier of two characters or more without lower case
    attribute           the identifier after the dot of an attribute access
    function_name       the identifier after ``def``
    class_name          the identifier after ``class``
    parameter           the name of a parameter where a function or lambda declares it
    keyword_argument    the name before the ``=`` of an argument in a call or in the
                        bases of a class
    call                the identifier right before the parenthesis of a call: ``f``
                        of ``f(x)``, ``g`` of ``a.g(x)``
    builtin             the name of a built-in function or type, read as a variable;
                        neither an exception nor a name with leading underscore
    exception           the name of a built-in exception, read as a variable
    import_line         an import statement
    decorator           a decorator from its ``@`` to the end of its expression
    annotation          the annotation of a variable, a parameter or a return value
    newline             a maximal run of white space that contains a line break and
                        lies outside strings
    indent              such a run before a line that opens a block
    dedent              such a run before a line that follows a closed block
    ==================  ==============================================================

    What stands in the replacement fields of an f-string gets no other label than "string".
    Soft keywords such as ``match`` count as names.

    A text that is not valid Python raises nothing. Without a syntax tree the labels docstring,
    attribute, parameter, keyword_argument, call, builtin, exception, import_line and
    annotation have no spans, docstrings count as strings, and the others reach as far as
    `tokenize` does.

    Parameters
    ----------
    text : str
        A Python source, with line breaks of any kind.
    documentation : bool, default=False
        Whether the text is prose about Python and not Python. It then gets the one label
        "documentation".

    Returns
    -------
    spans : dict of str to ndarray of shape (n_spans, 2), dtype int64
        For each label, in the order above, the first character and the one after the last, in
        the order of the text: ``text[start:end]`` is what the label covers.

    Raises
    ------
    TypeError
        If `text` is not a string.

    See Also
    --------
    python_token_labels : The same for the tokens of a language model.

    Examples
    --------
    >>> from skdict.datasets import label_python_spans
    >>> text = "import os  # paths\\nprint(os.getcwd())\\n"
    >>> spans = label_python_spans(text)
    >>> for label in ("comment", "import_line", "call", "builtin"):
    ...     print(label, [text[start:end] for start, end in spans[label]])
    comment ['# paths']
    import_line ['import os']
    call ['print', 'getcwd']
    builtin ['print']
    """
    if not isinstance(text, str):
        raise TypeError(f"text must be a str, got {type(text).__name__}.")
    return _label_text(text, documentation)[0]


def _label_text(text, documentation):
    if not documentation:
        return _label_source(text)
    spans = {label: as_spans([]) for label in _LABELS}
    spans["documentation"] = as_spans([(0, len(text))])
    return spans, True


def python_token_labels(texts, tokens, *, documentation=None):
    """Label the tokens of a language model by what they are in Python sources.

    A token has a label if all its characters other than white space lie in spans of that label
    (see :func:`label_python_spans` for the labels): " return" is a keyword in spite of its
    space, and "):" is a delimiter but no closing bracket. A token of nothing but white space
    has a label if all its characters lie in spans of that label: it can be part of a comment,
    a string or a newline. A token without characters, such as the one that opens a text, has
    no label.

    Parameters
    ----------
    texts : sequence of str, length n_documents
        The Python sources.
    tokens : mapping of str to array-like of shape (n_tokens,), dtype int
        Where each token comes from: "document", the index of its text, and "start" and "end",
        its first character and the one after its last. Other entries are ignored.
        `ActivationExtractor.tokens` returns such a mapping.
    documentation : array-like of shape (n_documents,), dtype bool, default=None
        Which texts are prose and no Python, as in ``corpus.target == 1`` for a `corpus` from
        :func:`load_python_corpus`. None means that all are Python.

    Returns
    -------
    labels : :class:`~sklearn.utils.Bunch`
        Dictionary-like object with the following attributes.

        data : ndarray of shape (n_tokens, n_labels), dtype bool
            Whether the token has the label.
        target_names : list of str, length n_labels
            The labels, in the order of :func:`label_python_spans`.
        parsed : ndarray of shape (n_documents,), dtype bool
            Whether the whole document could be read. In the others, which are not valid
            Python, labels are missing as :func:`label_python_spans` describes.

    Raises
    ------
    TypeError
        If `texts` is a single string or has an entry that is none.
    ValueError
        If `tokens` lacks an entry, its entries differ in length or are not whole numbers, or
        one points outside `texts`; if `documentation` has another length than `texts`.

    Examples
    --------
    >>> from skdict.datasets import python_token_labels
    >>> texts = ["return x  # done"]
    >>> tokens = {"document": [0, 0, 0, 0], "start": [0, 6, 8, 11], "end": [6, 8, 11, 16]}
    >>> labels = python_token_labels(texts, tokens)
    >>> for (start, end), row in zip([(0, 6), (6, 8), (8, 11), (11, 16)], labels.data):
    ...     print(repr(texts[0][start:end]), [labels.target_names[i] for i in row.nonzero()[0]])
    'return' ['keyword', 'keyword_return']
    ' x' ['name']
    '  #' ['comment']
    ' done' ['comment']
    """
    texts = check_text_sequence(texts)
    documentation = _check_documentation(documentation, len(texts))
    labelled = [_label_text(*each) for each in zip(texts, documentation, strict=True)]
    data = tokens_in_spans(texts, tokens, [spans for spans, _ in labelled], _LABELS)
    parsed = np.array([complete for _, complete in labelled], dtype=bool)
    return Bunch(data=data, target_names=list(_LABELS), parsed=parsed)


def _check_documentation(documentation, n_documents):
    if documentation is None:
        return np.zeros(n_documents, dtype=bool)
    documentation = np.asarray(documentation)
    if documentation.shape != (n_documents,) or documentation.dtype != bool:
        raise ValueError(
            f"documentation must be a boolean array of shape ({n_documents},), one entry per "
            f"text, got shape {documentation.shape} and dtype {documentation.dtype}."
        )
    return documentation
