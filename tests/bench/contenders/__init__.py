"""One module per contender. Each has pairs of gateways that speak mutual TLS 1.3 across the link, tuned as an operator
would for two cores. A contender has `start(bench)`, which returns its processes, and says where clients connect to: `bulk` and `http` carry
bytes, and at `each_request` it looks at each request of HTTP by itself (None: it does not here).

Adding one: a class with NAME, `start`, `bulk`, `http` and `each_request`, and its line in ALL.
"""

from .causeway import Causeway
from .direct import Direct
from .envoy import EnvoyH2, EnvoyTcp
from .haproxy import Haproxy

ALL = {c.NAME: c for c in (Direct, Haproxy, EnvoyTcp, EnvoyH2, Causeway)}
