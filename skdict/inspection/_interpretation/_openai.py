"""Language models behind an OpenAI-compatible server."""

import json
import os
from collections.abc import Mapping
from numbers import Real
from urllib.parse import urlsplit

from ..._core.optional import optional
from ...utils._sklearn_compat import Interval, python_number, validate_params
from ._asking import Completion

# Likeliest tokens that are asked for in place of each token.
_N_ALTERNATIVES = 10


class ChatError(RuntimeError):
    """A request that failed.

    `status_code` is the server's, None if there was no answer; `retry_after` the seconds that it
    wants to be left alone for, None if it does not say.
    """

    def __init__(self, message, status_code=None, retry_after=None):
        super().__init__(message)
        self.status_code = status_code
        self.retry_after = retry_after


class OpenAIChat:
    """A language model behind an OpenAI-compatible server, as a function of messages.

    The model can be OpenAI's or, with ``base_url``, that of any server that speaks the same
    language, such as vLLM, llama.cpp or Ollama on your own machine. The official client library
    does the talking; install it with ``pip install "skdict[llm]"``.

    Parameters
    ----------
    model : str
        Name of the model, as the server knows it.

    base_url : str, default=None
        Where the server is, such as "http://localhost:8000/v1". None for what the environment
        variable ``OPENAI_BASE_URL`` says, or OpenAI's own.

    api_key : str, default=None
        The key to the server. None takes the environment variable ``OPENAI_API_KEY``, but only
        with ``base_url=None``: a server that is named here is not sent a key meant for another.
        The key is in no representation, pickle, cache or message; an unpickled object takes
        that of the environment.

    temperature : float, default=0.0
        How random the answers are. None leaves it to the server; some models allow nothing else.

    timeout : float, default=60.0
        Seconds until a request is given up.

    params : dict, default=None
        What else is to be in each request, such as ``{"seed": 0, "max_completion_tokens": 500}``.

    Attributes
    ----------
    name : str
        What the answers depend on besides the messages, by which a cache knows them.

    Raises
    ------
    ImportError
        If openai is not installed.
    ValueError
        If `base_url` holds a user name or password, or the temperature is given twice.

    See Also
    --------
    AutoInterpreter : Explains features by such a model.

    Notes
    -----
    Requests are not repeated here; :class:`AutoInterpreter` does it.

    Examples
    --------
    >>> from skdict.inspection import OpenAIChat
    >>> llm = OpenAIChat("qwen3", base_url="http://localhost:8000/v1")
    >>> llm
    OpenAIChat('qwen3', base_url='http://localhost:8000/v1', temperature=0.0)

    With a server there, ``llm([{"role": "user", "content": "Hello"}])`` is its answer.
    """

    @validate_params(
        {
            "model": [str],
            "base_url": [str, None],
            "temperature": [Interval(Real, 0, None, closed="left"), None],
            "timeout": [Interval(Real, 0, None, closed="neither")],
            "params": [Mapping, None],
        },
        prefer_skip_nested_validation=True,
    )
    def __init__(
        self, model, *, base_url=None, api_key=None, temperature=0.0, timeout=60.0, params=None
    ):
        _import_openai()
        if temperature is not None and "temperature" in (params or {}):
            raise ValueError(
                f"params has temperature={params['temperature']!r}, and temperature is "
                f"{temperature!r}. Give it once, as the parameter."
            )
        if "@" in urlsplit(base_url or "").netloc:
            raise ValueError("base_url must hold no user name or password. Use api_key.")
        self.model = model
        self.base_url = base_url
        self.temperature = python_number(temperature)
        self.timeout = python_number(timeout)
        self.params = params
        self._api_key = api_key
        self._client = None

    @property
    def name(self):
        url = self.base_url or os.environ.get("OPENAI_BASE_URL", "")
        content = [self.model, url, self.temperature, self.params]
        return json.dumps(content, sort_keys=True, default=python_number)

    def __call__(self, messages):
        """Send messages and return the answer.

        Parameters
        ----------
        messages : list of dict
            Each with "role" ("system", "user" or "assistant") and "content".

        Returns
        -------
        completion : Completion
            The text, with the number of tokens where the server tells them.

        Raises
        ------
        RuntimeError
            If the request fails; with the attribute `status_code`, None if there was no answer.
        """
        return self._complete(messages)

    def logprobs(self, messages):
        """Send messages and return the answer with the log-probabilities of its tokens.

        Parameters
        ----------
        messages : list of dict
            Each with "role" ("system", "user" or "assistant") and "content".

        Returns
        -------
        completion : Completion
            The text, with `logprobs`.

        Raises
        ------
        RuntimeError
            If the request fails, or the server gives no log-probabilities.
        """
        completion = self._complete(messages, logprobs=True, top_logprobs=_N_ALTERNATIVES)
        if completion.logprobs is None:
            raise ChatError(f"The server of {self.model!r} gives no log-probabilities.", 400)
        return completion

    def _complete(self, messages, **options):
        openai = _import_openai()
        options |= {name: python_number(value) for name, value in (self.params or {}).items()}
        if self.temperature is not None:
            options["temperature"] = self.temperature
        try:
            if self._client is None:
                self._client = self._connect(openai)
        except openai.OpenAIError as error:  # such as for want of a key
            raise ChatError(str(error), 401) from None
        try:
            response = self._client.chat.completions.create(
                model=self.model, messages=messages, **options
            )
        except openai.OpenAIError as error:
            status_code = getattr(error, "status_code", None)
            raise ChatError(self._without_key(error), status_code, _wait(error)) from None
        try:
            return _completion(response)
        except (AttributeError, IndexError, TypeError) as error:  # it may be any JSON
            raise ChatError(f"The server's answer is no chat completion: {error}.") from None

    def _connect(self, openai):
        key = self._api_key
        if key is None and self.base_url is not None:
            key = "none"  # the client insists on one
        return openai.OpenAI(
            base_url=self.base_url, api_key=key, timeout=self.timeout, max_retries=0
        )

    def _without_key(self, error):
        key = self._client.api_key if self._client else None
        message = f"{type(error).__name__}: {error}"
        return message.replace(key, "[API key]") if key else message

    def __repr__(self):
        server = f", base_url={self.base_url!r}" if self.base_url else ""
        return f"OpenAIChat({self.model!r}{server}, temperature={self.temperature})"

    def __getstate__(self):
        return vars(self) | {"_api_key": None, "_client": None}

    # a copy by way of the state would have no key

    def __copy__(self):
        copied = object.__new__(type(self))
        vars(copied).update(vars(self) | {"_client": None})
        return copied

    def __deepcopy__(self, memo):
        return self  # nothing changes in it


def _wait(error):
    """The seconds that a server says to wait for, or None."""
    try:
        return float(error.response.headers["retry-after"])
    except (AttributeError, KeyError, ValueError):  # no answer, no such header, or a date
        return None


def _completion(response):
    choice, usage = response.choices[0], response.usage
    if not isinstance(choice.message.content, str):
        raise ChatError(f"The model returned no text (finish reason {choice.finish_reason!r}).")
    logprobs = None
    if choice.logprobs is not None and choice.logprobs.content:
        logprobs = [
            (entry.token, {other.token: other.logprob for other in entry.top_logprobs})
            for entry in choice.logprobs.content
        ]
    return Completion(
        choice.message.content,
        prompt_tokens=usage and usage.prompt_tokens,
        completion_tokens=usage and usage.completion_tokens,
        logprobs=logprobs,
        finish_reason=choice.finish_reason,
    )


def _import_openai():
    with optional("openai", "OpenAIChat", '"skdict[llm]"'):
        import openai
    return openai
