"""Requests to a language model: answers, retries, a cache on disk, and costs."""

import hashlib
import json
import time
from numbers import Integral, Real
from pathlib import Path
from typing import NamedTuple

import torch

from ....utils._file_cache import FileCache

# Status codes after which a retry is pointless.
_FINAL_STATUS = frozenset(range(400, 500)) - {408, 409, 425, 429}
_CHARACTERS_PER_TOKEN = 4
_LONGEST_WAIT = 60.0
_LONGEST_ERROR = 500  # characters; servers may send a whole HTML page


class Completion(str):
    """The text that a language model returned, with its cost and log-probabilities.

    A model may also return a plain str; this class adds the number of tokens and, if the model
    provides them, the log-probabilities of the tokens.

    Parameters
    ----------
    text : str
        The text that the model wrote.

    prompt_tokens, completion_tokens : int, default=None
        Number of tokens read and written; None if unknown.

    logprobs : list of (str, dict of str to float), default=None
        Each token of the text, in order, with the log-probabilities (natural logarithm) of the
        most likely tokens at its position; None if unknown.

    finish_reason : str, default=None
        Why the text ends. A text that ends because of its "length" counts as unreadable.

    Examples
    --------
    >>> from skdict.inspection import Completion
    >>> completion = Completion("[1, 0]", prompt_tokens=120, completion_tokens=5)
    >>> completion, completion.prompt_tokens
    ('[1, 0]', 120)
    """

    def __new__(
        cls, text, *, prompt_tokens=None, completion_tokens=None, logprobs=None, finish_reason=None
    ):
        self = super().__new__(cls, text)
        self.prompt_tokens = prompt_tokens
        self.completion_tokens = completion_tokens
        self.logprobs = logprobs
        self.finish_reason = finish_reason
        return self


class Answer(NamedTuple):
    """The result of a question; if it failed, `value` is None and `error` says why.

    The tokens are those of all completions for this question, from the cache or not.
    """

    value: object
    n_requests: int = 0
    n_cached: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    is_estimate: bool = False
    error: str | None = None

    @property
    def n_failures(self):
        return int(self.value is None)


class Asker:
    """Asks a language model until an answer can be parsed.

    Parameters
    ----------
    llm : callable
        From messages to text.
    cache : AnswerCache or None
    max_retries : int
        Maximum number of repetitions of a question.
    retry_wait : float
        Seconds before a failed request is repeated; doubled each time.
    """

    def __init__(self, llm, *, cache, max_retries, retry_wait):
        self._llm = llm
        self._cache = cache
        self._max_retries = max_retries
        self._retry_wait = retry_wait

    def ask(self, messages, parse, *, logprobs=False):
        """Return the `Answer` whose value is ``parse(completion)``.

        If `parse` raises ValueError, the question is repeated together with the completion and
        the error message. After an exception in the model the request is repeated later, unless
        this machine is out of memory.
        """
        asked, answer = messages, Answer(None)
        for attempt in range(self._max_retries + 1):
            completion = self._cache and self._cache.read(asked, logprobs)
            if completion is not None:
                answer = answer._replace(n_cached=answer.n_cached + 1)
            else:
                answer = answer._replace(n_requests=answer.n_requests + 1)
                try:
                    completion = self._request(asked, logprobs)
                except (MemoryError, torch.OutOfMemoryError):  # a local model; retries do not help
                    raise
                except Exception as error:  # the user's callable may raise anything
                    answer = answer._replace(
                        error=f"{type(error).__name__}: {error}"[:_LONGEST_ERROR]
                    )
                    if getattr(error, "status_code", None) in _FINAL_STATUS:
                        break
                    if attempt < self._max_retries:
                        wait = self._retry_wait * 2**attempt
                        told = getattr(error, "retry_after", None)  # may be of any type
                        if isinstance(told, Real) and told > wait:
                            wait = told
                        time.sleep(min(wait, _LONGEST_WAIT))
                    continue
                if self._cache:
                    self._cache.write(asked, logprobs, completion)
            answer = _add_cost(answer, asked, completion)
            try:
                if completion.finish_reason == "length":
                    raise ValueError("It was cut off at the greatest length that is allowed.")
                return answer._replace(value=parse(completion), error=None)
            except ValueError as error:
                answer = answer._replace(error=f"unreadable answer: {error}")
                asked = [
                    *messages,
                    {"role": "assistant", "content": str(completion)},
                    {"role": "user", "content": f"{error} Answer again, in the form asked for."},
                ]
        return answer

    def _request(self, messages, logprobs):
        completion = self._llm.logprobs(messages) if logprobs else self._llm(messages)
        if not isinstance(completion, str):
            raise TypeError(
                f"llm must return a str, but returned {completion!r:.80} of type "
                f"{type(completion).__name__}."
            )
        if logprobs and getattr(completion, "logprobs", None) is None:
            raise TypeError("llm.logprobs must return a Completion with logprobs.")
        return completion if isinstance(completion, Completion) else Completion(completion)


def _add_cost(answer, messages, completion):
    read, written = completion.prompt_tokens, completion.completion_tokens
    is_estimate = not (_is_count(read) and _is_count(written))
    if is_estimate:
        n_read = sum(len(message["content"]) for message in messages)
        read = -(-n_read // _CHARACTERS_PER_TOKEN)
        written = -(-len(completion) // _CHARACTERS_PER_TOKEN)
    return answer._replace(
        prompt_tokens=answer.prompt_tokens + int(read),
        completion_tokens=answer.completion_tokens + int(written),
        is_estimate=answer.is_estimate or is_estimate,
    )


def _is_count(number):
    """Whether it is a valid number of tokens; servers and callables may return anything."""
    is_integer = isinstance(number, Integral) and not isinstance(number, bool)
    return is_integer and 0 <= number < 2**53


class AnswerCache(FileCache):
    """A folder of JSON files, one per completion, with the messages that it answers.

    The file name is a digest of the model's name and the messages. The last field is a checksum
    of all others.

    Parameters
    ----------
    folder : str or path-like
    name : str
        Identifies the model, so that answers of different models are not mixed up.
    """

    suffix = ".json"

    def __init__(self, folder, name):
        super().__init__(
            Path(folder).expanduser(),
            "",
            "Its question is asked again, and so are those of other damaged files.",
        )
        self._name = name
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            self.warn_of_writing(error)  # before anything is paid for

    def read(self, messages, logprobs):
        """Return the completion, or None if it is not in the cache."""
        return self.load(self._key(messages, logprobs))

    def write(self, messages, logprobs, completion):
        """Store a completion, with the messages that it answers."""
        fields = {
            "messages": messages,
            "text": str(completion),
            "prompt_tokens": completion.prompt_tokens,
            "completion_tokens": completion.completion_tokens,
            "logprobs": completion.logprobs,
            "finish_reason": completion.finish_reason,
        }
        self.store(self._key(messages, logprobs), fields)

    def _key(self, messages, logprobs):
        content = json.dumps([self._name, messages, logprobs])
        return hashlib.sha256(content.encode()).hexdigest()[:40]

    def encode(self, fields):
        """Return the fields as JSON, without the closing bracket."""
        # the user's models may return NumPy numbers
        text = json.dumps(fields, default=lambda number: number.item())
        return text.removesuffix("}").encode()

    def seal(self, checksum):
        """Return the last field."""
        return b', "crc32": "' + checksum + b'"}'

    def decode(self, content):
        """Return the completion."""
        stored = json.loads(content + b"}")
        return Completion(
            stored["text"],
            prompt_tokens=stored["prompt_tokens"],
            completion_tokens=stored["completion_tokens"],
            logprobs=stored["logprobs"],
            finish_reason=stored["finish_reason"],
        )
