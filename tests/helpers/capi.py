"""TensorFlow's C API, which runs the same session as TF Serving.

    python capi.py FOLDER < REQUESTS > ANSWERS

REQUESTS is a pickled list of (signature, array), ANSWERS one of (outputs by name, or
(code, message) of an error; peak memory of the process in bytes). The module disables
XLA compilation for the whole process: tests must not import it themselves.
"""

import ctypes
import os
import pickle
import resource
import sys
from collections.abc import Mapping, Sequence

import numpy as np

if __name__ == "__main__":
    sys.modules["keras"] = None  # Importing it raises ImportError.
import tensorflow as tf

v1 = tf.compat.v1
# tensorflow::DisableXlaCompilation(), as tensorflow_model_server does when it starts
library = ctypes.CDLL(os.path.join(tf.sysconfig.get_lib(), "libtensorflow_cc.so.2"))
library._ZN10tensorflow21DisableXlaCompilationEv()


class Session:
    """A SavedModel in a session of its own.

    Args:
        folder: Path. The SavedModel.
        threads: Integer. Threads of the session. Defaults to 0, one per core.

    Attributes:
        signatures: Mapping. The `SignatureDef` of each signature.
    """

    def __init__(self, folder: str | os.PathLike[str], threads: int = 0) -> None:
        config = v1.ConfigProto(
            intra_op_parallelism_threads=threads, inter_op_parallelism_threads=threads
        )
        self._session = v1.Session(graph=tf.Graph(), config=config)
        with self._session.graph.as_default():
            loaded = v1.saved_model.load(self._session, ["serve"], os.fspath(folder))
        self.signatures = loaded.signature_def

    def run(
        self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str]
    ) -> list[np.ndarray]:
        """Computes the tensors `fetches` by name, or raises a `tf.errors.OpError`.

        The names are like `"serving_default_image:0"`. Arrays of strings have the dtype
        object and hold `bytes`. Unlike `tf.compat.v1.Session.run`, it passes on arrays
        of any shape and dtype.
        """
        inputs = {self._find(name): array for name, array in feeds.items()}
        outputs = [self._find(name) for name in fetches]
        try:
            return self._session._call_tf_sessionrun(None, inputs, outputs, [], None)
        except UnicodeDecodeError as error:
            # The message, which quotes a `tf.Example`, is not UTF-8.
            message = error.object.decode(errors="replace")
            assert message.startswith("Could not parse example input"), message
            raise tf.errors.InvalidArgumentError(None, None, message) from error

    def _find(self, name: str) -> object:
        return self._session.graph.get_tensor_by_name(name)._as_tf_output()


def main() -> None:
    session = Session(sys.argv[1])
    answers = []
    for name, batch in pickle.load(sys.stdin.buffer):
        signature = session.signatures[name]
        [argument] = signature.inputs.values()
        tensors = [output.name for output in signature.outputs.values()]
        try:
            arrays = session.run({argument.name: batch}, tensors)
            answer = dict(zip(signature.outputs, arrays, strict=True))
        except tf.errors.OpError as error:
            answer = (error.error_code, error.message)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        answers.append((answer, peak))
    sys.stdout.buffer.write(pickle.dumps(answers))


if __name__ == "__main__":
    main()
