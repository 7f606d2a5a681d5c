"""Why a source cannot be imported. A config's own problems are `runtime.models.UnsupportedModel`."""

from artifacts.errors import UserError


class SourceError(UserError):
    """A model source that cannot be imported; the message says what was found, what was expected and what to do."""


class MissingFile(SourceError):
    """A file that the source must have is not there."""


class DamagedFile(SourceError):
    """A file is truncated, or is not what its name says."""


class MissingTensor(SourceError):
    """The config implies a tensor that the checkpoint lacks."""


class UnexpectedTensor(SourceError):
    """The checkpoint has tensors that the config does not account for."""


class ShapeMismatch(SourceError):
    """A tensor's shape disagrees with the config."""


class UnsupportedDtype(SourceError):
    """A tensor is stored in a type, or quantized in a way, that cannot be imported."""


class UnsupportedQuantization(SourceError):
    """The config describes a quantization that cannot be imported: an unknown method, format or number of bits."""


class QuantizationMismatch(SourceError):
    """What the config says about a tensor's quantization is not how the tensor is stored."""


class UnsupportedGraph(SourceError):
    """An ONNX graph has a node, an input or a structure that cannot be imported."""


class GraphMismatch(SourceError):
    """An ONNX graph computes something other than its config describes."""


class DamagedTensor(SourceError):
    """A tensor of the right type and shape holds values that it cannot have."""


class PickleCheckpoint(SourceError):
    """The weights are only there as pickle files, which run code when they are loaded."""


class MissingTokenizer(SourceError):
    """There is no tokenizer, or only in a form that needs conversion."""


class UnsupportedTokenizer(SourceError):
    """A tokenizer that cannot be rebuilt faithfully."""


class AdapterMismatch(SourceError):
    """An adapter is not of the source's model, or is not what its config says."""


class UnsupportedAdapter(SourceError):
    """An adapter is of a kind, or has an option, that cannot be merged."""
