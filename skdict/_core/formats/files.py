"""The files of a saved dictionary: read lazily, checked, and never executed."""

import fnmatch
import os
from pathlib import Path, PurePosixPath

from ..optional import optional
from .config import Config, parse_json, shorten
from .pickled import load_torch
from .tensors import FormatError, NpzTensors, SafeTensors, Tensors, TorchTensors

# A configuration is text of some kilobytes; larger ones are something else.
MAX_TEXT = 16 << 20
CONFIGS = (".json", ".yaml", ".yml")


class Files:
    """Files of a folder by their names relative to it, with "/".

    Parameters
    ----------
    folder : path
        A folder, or a file, which comes with the configurations beside it.
    """

    def __init__(self, folder):
        folder = Path(folder)
        self.where = str(folder)
        self._tensor_names = {}  # of the files that were looked into
        if folder.is_file():
            self.root = folder.parent
            beside = [path.name for path in self.root.iterdir() if path.is_file()]
            self.names = with_configs(folder.name, beside)
        elif folder.is_dir():
            self.root = folder
            os.scandir(folder).close()  # an error where it may not be read, which rglob hides
            found = (path for path in folder.rglob("*") if path.is_file())
            self.names = sorted(path.relative_to(folder).as_posix() for path in found)
        else:
            raise FileNotFoundError(f"There is no file or folder {self.where!r}.")
        self.problems = []
        self._identity = self.root.stat().st_ino

    def __contains__(self, name):
        return name in self.names

    def matching(self, pattern):
        """Names that match a pattern of `fnmatch`, sorted; "*" goes across folders.

        Parameters
        ----------
        pattern : str

        Returns
        -------
        names : list of str
        """
        return [name for name in self.names if fnmatch.fnmatchcase(name, pattern)]

    def ending(self, *endings):
        """Names of the files whose last parts are these, in whatever folder, sorted.

        Parameters
        ----------
        *endings : str
            Patterns of `fnmatch`, such as "cfg.json" or "layer_*.safetensors".

        Returns
        -------
        names : list of str
        """
        patterns = [pattern for ending in endings for pattern in (ending, f"*/{ending}")]
        return sorted({name for pattern in patterns for name in self.matching(pattern)})

    def one(self, *endings):
        """The name of the one file that ends in one of these ways, in whatever folder.

        Parameters
        ----------
        *endings : str
            As of `ending`.

        Returns
        -------
        name : str

        Raises
        ------
        ValueError
            If there is none, or more than one.
        """
        found = self.ending(*endings)
        if len(found) != 1:
            wanted = " or ".join(map(repr, endings))
            listed = f"several: {shorten(found)}" if found else f"none among {shorten(self.names)}"
            raise FormatError(
                f"{self.where} must have one file {wanted}, but has {listed}. Name the folder of "
                "one dictionary with path=."
            )
        return found[0]

    def path(self, name):
        """Where a file lies on this machine.

        Parameters
        ----------
        name : str

        Returns
        -------
        path : Path
        """
        pure = PurePosixPath(name)
        if pure.is_absolute() or ".." in pure.parts or "\\" in name or name not in self.names:
            raise FormatError(f"{self.where} has no file {name!r}: it has {shorten(self.names)}.")
        return self.locate(name)

    def locate(self, name):
        """Where one of the `names` lies.

        Parameters
        ----------
        name : str

        Returns
        -------
        path : Path
        """
        return self.root / name

    def check_unchanged(self):
        """Refuse what was read while another folder took the place of this one.

        Its files may be of two dictionaries then.
        """
        if not self.root.exists() or self.root.stat().st_ino != self._identity:
            raise FormatError(f"{self.where} was replaced while it was read. Load it again.")

    @property
    def place(self):
        """Where the files are, for provenance: nothing of a folder on this machine."""
        return {}

    def describe(self, name):
        """The name of a file in errors: with the folder.

        Parameters
        ----------
        name : str

        Returns
        -------
        described : str
        """
        return name if self.where.endswith(name) else f"{name} (of {self.where})"

    def full(self, name):
        """The name of a file with the folder before it, for what only a path says.

        Parameters
        ----------
        name : str

        Returns
        -------
        full : str
            With "/" between its parts.
        """
        return (self.root / name).as_posix()

    def tensor_names(self, name):
        """Names of the tensors of a file of safetensors or of torch, to tell formats apart.

        Parameters
        ----------
        name : str

        Returns
        -------
        names : set of str
            Empty if the file holds no tensors by name, or cannot be read: then `problems` tells.
        """
        if name not in self._tensor_names:
            tensors = self._look(name)
            self._tensor_names[name] = set() if tensors is None else set(tensors.names)
        return self._tensor_names[name]

    def text(self, name):
        """The text of a small file.

        Parameters
        ----------
        name : str

        Returns
        -------
        text : str
        """
        path, described = self.path(name), self.describe(name)
        size = path.stat().st_size
        if size > MAX_TEXT:
            raise FormatError(f"{described} has {size} bytes, too many for a configuration.")
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise FormatError(f"{described} is not UTF-8 text: {error}.") from None

    def json(self, name):
        """A configuration in JSON.

        Parameters
        ----------
        name : str

        Returns
        -------
        config : Config
        """
        described = self.describe(name)
        return Config(parse_json(self.text(name), described), described)

    def yaml(self, name):
        """A configuration in YAML; tags that name Python objects are read as plain data.

        Parameters
        ----------
        name : str

        Returns
        -------
        config : Config
        """
        with optional("yaml", "Reading YAML", "skdict[io]"):
            import yaml

        class Loader(yaml.SafeLoader):
            pass

        def plain(loader, _, node):
            if isinstance(node, yaml.MappingNode):
                return loader.construct_mapping(node, deep=True)
            if isinstance(node, yaml.SequenceNode):
                return loader.construct_sequence(node, deep=True)
            return loader.construct_scalar(node)

        Loader.add_multi_constructor("", plain)
        described = self.describe(name)
        try:
            value = yaml.load(self.text(name), Loader=Loader)  # a safe one
        except (yaml.YAMLError, RecursionError, ValueError, TypeError) as error:
            raise FormatError(f"{described} is no valid YAML: {error}.") from None
        return Config(value, described)

    def safetensors(self, name):
        """The tensors of a safetensors file.

        Parameters
        ----------
        name : str

        Returns
        -------
        tensors : SafeTensors
        """
        return SafeTensors(self.path(name), self.describe(name))

    def npz(self, name):
        """The arrays of a file of NumPy, as tensors.

        Parameters
        ----------
        name : str

        Returns
        -------
        tensors : NpzTensors
        """
        return NpzTensors(self.path(name), self.describe(name))

    def first_line(self, name):
        """The JSON in the first line of a file, and where the next line begins.

        Parameters
        ----------
        name : str

        Returns
        -------
        config : Config
        start : int
        """
        described = self.describe(name)
        with open(self.path(name), "rb") as file:
            line = file.readline(MAX_TEXT)
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise FormatError(
                f"{described} does not begin with a line of text: {error}."
            ) from None
        return Config(parse_json(text, described), described), len(line)

    def peek(self, *endings):
        """The tensors of the one file that ends so, to recognise a format by.

        Parameters
        ----------
        *endings : str
            As of `ending`, of files of ``torch.save`` or safetensors.

        Returns
        -------
        tensors : Tensors or None
            None if there is no such file or more than one, or it cannot be read: then `problems`
            tells.
        """
        found = self.ending(*endings)
        if len(found) != 1:
            return None
        return self._look(found[0])

    def _look(self, name):
        is_safe = name.endswith(".safetensors")
        try:
            value = self.safetensors(name) if is_safe else self.torch(name)
        except FormatError as error:
            if str(error) not in self.problems:
                self.problems.append(str(error))
            return None
        return value if isinstance(value, Tensors) else None

    def torch(self, name, *, start=0):
        """What ``torch.save`` has written: nothing but tensors in plain containers.

        Parameters
        ----------
        name : str
        start : int
            Where in the file it begins.

        Returns
        -------
        value : TorchTensors or object
            The former of a dict from names.
        """
        path, described = self.path(name), self.describe(name)
        value = load_torch(path, described, start)
        return TorchTensors(value, described) if isinstance(value, dict) else value

    def torch_tensors(self, name, *, start=0):
        """As `torch`, of a file that has to hold tensors by name.

        Parameters
        ----------
        name : str
        start : int
            Where in the file it begins.

        Returns
        -------
        tensors : TorchTensors
        """
        value = self.torch(name, start=start)
        if not isinstance(value, TorchTensors):
            raise FormatError(f"{self.describe(name)} must hold tensors by name.")
        return value


def with_configs(name, beside):
    """A file and the configurations beside it: names, sorted."""
    return sorted({name, *(each for each in beside if PurePosixPath(each).suffix in CONFIGS)})
