"""TensorFlow's C API through ctypes, from the library in TensorFlow's wheel.

It loads SavedModels as TF Serving does, with `TF_LoadSessionFromSavedModel`, and
disables XLA compilation for the whole process: tests must not import it themselves.
"""

import ctypes
import os
from collections.abc import Mapping, Sequence
from ctypes import POINTER, c_char_p, c_int, c_int64, c_size_t, c_void_p

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2

SIZE_OF_TSTRING = 24  # sizeof(TF_TString), tensorflow/c/tf_tstring.h


class TFOutput(ctypes.Structure):
    """One output of an operation: `TF_Output`."""

    _fields_ = (("operation", c_void_p), ("index", c_int))


class TFBuffer(ctypes.Structure):
    """A block of bytes: `TF_Buffer`."""

    _fields_ = (("data", c_void_p), ("length", c_size_t), ("deallocator", c_void_p))


def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(os.path.join(tf.sysconfig.get_lib(), "libtensorflow_cc.so.2"))
    functions = {
        "TF_AllocateTensor": (c_void_p, c_int, c_void_p, c_int, c_size_t),
        "TF_DeleteSession": (None, c_void_p, c_void_p),
        "TF_Dim": (c_int64, c_void_p, c_int),
        "TF_GetCode": (c_int, c_void_p),
        "TF_GraphOperationByName": (c_void_p, c_void_p, c_char_p),
        "TF_LoadSessionFromSavedModel": (
            *(c_void_p, c_void_p, c_void_p, c_char_p, POINTER(c_char_p), c_int),
            *(c_void_p, POINTER(TFBuffer), c_void_p),
        ),
        "TF_Message": (c_char_p, c_void_p),
        "TF_NewBuffer": (POINTER(TFBuffer),),
        "TF_NumDims": (c_int, c_void_p),
        "TF_SessionRun": (
            *(None, c_void_p, c_void_p),
            *(POINTER(TFOutput), POINTER(c_void_p), c_int) * 2,
            *(c_void_p, c_int, c_void_p, c_void_p),
        ),
        "TF_SetConfig": (None, c_void_p, c_char_p, c_size_t, c_void_p),
        "TF_StringCopy": (None, c_void_p, c_char_p, c_size_t),
        "TF_StringGetDataPointer": (c_void_p, c_void_p),
        "TF_StringInit": (None, c_void_p),
        "TF_StringGetSize": (c_size_t, c_void_p),
        "TF_TensorByteSize": (c_size_t, c_void_p),
        "TF_TensorData": (c_void_p, c_void_p),
        "TF_TensorType": (c_int, c_void_p),
    }
    kinds = ("Buffer", "Graph", "SessionOptions", "Status", "Tensor")
    functions |= {f"TF_Delete{kind}": (None, c_void_p) for kind in kinds}
    functions |= {f"TF_New{kind}": (c_void_p,) for kind in kinds[1:4]}
    for name, (result, *arguments) in functions.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


TF = _library()
# tensorflow::DisableXlaCompilation(), as tensorflow_model_server does when it starts
TF._ZN10tensorflow21DisableXlaCompilationEv()


class _Status:
    """A `TF_Status` that raises a `tf.errors.OpError` at the end, unless it is OK."""

    def __enter__(self) -> int:
        self._pointer = TF.TF_NewStatus()
        return self._pointer

    def __exit__(self, *_: object) -> None:
        code = TF.TF_GetCode(self._pointer)
        message = TF.TF_Message(self._pointer).decode(errors="replace")
        TF.TF_DeleteStatus(self._pointer)
        if code:
            error = tf.compat.v1.errors.exception_type_from_error_code(code)
            raise error(None, None, message)


class Session:
    """A SavedModel, loaded as TF Serving loads it.

    Args:
        folder: Path. The SavedModel.
        threads: Integer. Threads of the session. Defaults to 0, one per core.

    Attributes:
        signatures: Mapping. The `SignatureDef` of each signature.
    """

    def __init__(self, folder: str | os.PathLike[str], threads: int = 0) -> None:
        self._graph = TF.TF_NewGraph()
        self._session = None
        options = TF.TF_NewSessionOptions()
        meta_graph = TF.TF_NewBuffer()
        # A serialized ConfigProto: intra_op_parallelism_threads is its field 2 and
        # inter_op_parallelism_threads its field 5.
        config = bytes([2 << 3, threads, 5 << 3, threads])
        try:
            with _Status() as status:
                TF.TF_SetConfig(options, config, len(config), status)
            with _Status() as status:
                self._session = TF.TF_LoadSessionFromSavedModel(
                    options,
                    None,
                    os.fsencode(folder),
                    (c_char_p * 1)(b"serve"),
                    1,
                    self._graph,
                    meta_graph,
                    status,
                )
            content = meta_graph.contents
            serialized = ctypes.string_at(content.data, content.length)
            definition = meta_graph_pb2.MetaGraphDef.FromString(serialized)
            self.signatures = definition.signature_def
        finally:
            TF.TF_DeleteBuffer(meta_graph)
            TF.TF_DeleteSessionOptions(options)

    def run(
        self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str]
    ) -> list[np.ndarray]:
        """Computes the tensors `fetches` by name, or raises a `tf.errors.OpError`.

        The names are like `"serving_default_image:0"`. Arrays of strings have the dtype
        object and hold `bytes`.
        """
        count = len(fetches)
        results = (c_void_p * count)()
        tensors = (c_void_p * len(feeds))(*map(_to_tensor, feeds.values()))
        try:
            with _Status() as status:
                TF.TF_SessionRun(
                    self._session,
                    None,
                    (TFOutput * len(feeds))(*map(self._find, feeds)),
                    tensors,
                    len(feeds),
                    (TFOutput * count)(*map(self._find, fetches)),
                    results,
                    count,
                    None,
                    0,
                    None,
                    status,
                )
            return [_to_array(tensor) for tensor in results]
        finally:
            for tensor in (*tensors, *results):
                TF.TF_DeleteTensor(tensor)

    def _find(self, name: str) -> TFOutput:
        operation, index = name.rsplit(":", 1)
        pointer = TF.TF_GraphOperationByName(self._graph, operation.encode())
        if not pointer:
            raise KeyError(name)
        return TFOutput(pointer, int(index))

    def __del__(self) -> None:
        if self._session:
            with _Status() as status:
                TF.TF_DeleteSession(self._session, status)
        TF.TF_DeleteGraph(self._graph)


def _to_tensor(array: np.ndarray) -> int:
    dims = (c_int64 * array.ndim)(*array.shape)
    dtype = tf.dtypes.as_dtype(array.dtype).as_datatype_enum
    if dtype == tf.string.as_datatype_enum:
        size = array.size * SIZE_OF_TSTRING
        tensor = TF.TF_AllocateTensor(dtype, dims, array.ndim, size)
        data = TF.TF_TensorData(tensor)
        for index, string in enumerate(array.flat):
            TF.TF_StringInit(data + index * SIZE_OF_TSTRING)
            TF.TF_StringCopy(data + index * SIZE_OF_TSTRING, string, len(string))
    else:
        tensor = TF.TF_AllocateTensor(dtype, dims, array.ndim, array.nbytes)
        ctypes.memmove(TF.TF_TensorData(tensor), array.tobytes(), array.nbytes)
    return tensor


def _to_array(tensor: int) -> np.ndarray:
    shape = [TF.TF_Dim(tensor, axis) for axis in range(TF.TF_NumDims(tensor))]
    data = TF.TF_TensorData(tensor)
    dtype = tf.dtypes.as_dtype(TF.TF_TensorType(tensor))
    if dtype == tf.string:
        array = np.empty(shape, object)
        for index in range(array.size):
            string = data + index * SIZE_OF_TSTRING
            array.flat[index] = ctypes.string_at(
                TF.TF_StringGetDataPointer(string), TF.TF_StringGetSize(string)
            )
        return array
    content = ctypes.string_at(data, TF.TF_TensorByteSize(tensor))
    return np.frombuffer(content, dtype.as_numpy_dtype).reshape(shape)
