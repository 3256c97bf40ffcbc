from seqpair.api import Comparisons as Comparisons
from seqpair.api import Evaluation as Evaluation
from seqpair.api import Model as Model
from seqpair.api import Study as Study
from seqpair.api import compare_members as compare_members
from seqpair.api import evaluate_models as evaluate_models
from seqpair.api import load as load
from seqpair.api import probe as probe
from seqpair.errors import SeqpairError as SeqpairError

__version__: str
