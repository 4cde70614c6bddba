"""A process that answers JSON requests a line, each with a line: what the benches' peers speak."""
import json
import os
import sys
import warnings


def serve(begin):
    """`begin()` gives the first line and what answers the fields of a request; what it or an answer fails with is a line, too."""
    # What libraries print must not get between the answers.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")

    def say(answer):
        out.write(json.dumps(answer) + "\n")
        out.flush()

    def failed(error):
        say({"error": f"{type(error).__name__}: {error}"[:300]})
    try:
        hello, answer = begin()
    except Exception as error:  # one that is not installed must not stop the others
        failed(error)
        return
    say(hello)
    for line in sys.stdin:
        try:
            say(answer(**json.loads(line)))
        except Exception as error:  # nor one request that fails
            failed(error)
