"""Answers requests as TF Serving does: in TensorFlow's C API, without Keras.

    python answer_requests.py FOLDER < REQUESTS > ANSWERS

REQUESTS is a pickled list of (signature, array), ANSWERS one of (outputs by name, or
(code, message) of an error; peak memory of the process in bytes).
"""

import pickle
import resource
import sys

sys.modules["keras"] = None  # Importing it raises ImportError.

import capi  # noqa: E402
import tensorflow as tf  # noqa: E402


def main() -> None:
    session = capi.Session(sys.argv[1])
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
