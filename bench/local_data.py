"""Where the real text, test sets and tokenizer lie that tests and benchmarks read.

`SEQPAIR_DATA` names the folder, which contains `text/`, `eval/` and `tokenizer_modernbert/`. Without it the folder is
`shared/data` beside the checkout. A test that needs a file that is not there skips and says so.
"""

import os
from pathlib import Path

LOCAL_DATA = Path(os.environ.get("SEQPAIR_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
TEXT = LOCAL_DATA / "text"
EVAL = LOCAL_DATA / "eval"
MODERNBERT = LOCAL_DATA / "tokenizer_modernbert"
