from .models.oracle import OracleSpec as OracleSpec
from .oracle_metrics import OracleConcept as OracleConcept
from .oracle_metrics import OracleExact as OracleExact
from .oracle_metrics import OraclePrompt as OraclePrompt
from .parts import PARTS as PARTS
from .parts import TRAINED as TRAINED
from .parts import embedded as embedded
