"""Requests that schemathesis makes of a server's /openapi.json, allowed and forbidden ones, and what it answers to them.

    POLYLORA_URL=http://127.0.0.1:8080 python tests/clients/http_fuzz.py EXAMPLES [SEED]

EXAMPLES is how many requests for each operation at most, in each of its phases. Without SEED they are others each time.
Exits with 1 when an answer is not as the document says; prints the command that repeats it.
"""

import os
import subprocess
import sys
import tempfile

# Not among them: whether whatever the document forbids is refused. Fields that it does not name are ignored, as vLLM
# ignores them.
CHECKS = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
]


def main(examples, seed=None):
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", os.environ["POLYLORA_URL"] + "/openapi.json"),
        *("--checks", ",".join(CHECKS)),
        *("--max-examples", examples),
        *("--phases", "examples,coverage,fuzzing"),
        *("--generation-database", "none"),
        *("--request-timeout", "60"),
        *("--max-failures", "10"),
        *("--warnings", "off"),
        # Hypothesis speaks of slowness on machines that others use too.
        *("--suppress-health-check", "all"),
        "--no-color",
    ]
    if seed is not None:
        command += ["--seed", seed]
    # It leaves a folder where it runs.
    with tempfile.TemporaryDirectory() as folder:
        return subprocess.run(command, check=False, cwd=folder).returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
