"""No gateway and no encryption: what the machine can do at all. Not counted when the best contender is looked for."""

from network import FAR, HTTP_PORT, IPERF_PORT


class Direct:
    NAME = "direct"
    bulk = (FAR, IPERF_PORT)
    http = (FAR, HTTP_PORT)
    each_request = http

    def start(self, _bench):
        return []
