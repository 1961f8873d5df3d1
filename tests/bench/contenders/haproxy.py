"""haproxy on both sides: each TCP connection becomes a TLS connection with client certificates; and, where it looks at requests, HTTP/1.1 comes in
and goes out, with HTTP/2 between."""

from network import FAR, HTTP_PORT, IPERF_PORT

THREADS = 2
GLOBAL = f"""
global
    nbthread {THREADS}
    maxconn 8000
    tune.bufsize 131072
    ssl-default-bind-options ssl-min-ver TLSv1.3
    ssl-default-server-options ssl-min-ver TLSv1.3
defaults
    mode tcp
    timeout connect 5s
    timeout client 1h
    timeout server 1h
"""


class Haproxy:
    NAME = "haproxy"
    bulk = ("127.0.0.1", 7001)
    http = ("127.0.0.1", 7002)
    each_request = ("127.0.0.1", 7003)

    def start(self, bench):
        pki = bench.folder / "pki"
        near, far = GLOBAL, GLOBAL
        for (_, local), link, server in ((self.bulk, 7441, IPERF_PORT), (self.http, 7442, HTTP_PORT)):
            near += f"""
listen near{local}
    bind 127.0.0.1:{local}
    server far {FAR}:{link} ssl verify required ca-file {pki}/near/ca.pem crt {pki}/near/both.pem
"""
            far += f"""
listen far{link}
    bind {FAR}:{link} ssl crt {pki}/far/both.pem ca-file {pki}/far/ca.pem verify required
    server local 127.0.0.1:{server}
"""
        near += f"""
listen near{self.each_request[1]}
    mode http
    http-reuse always
    bind 127.0.0.1:{self.each_request[1]}
    server far {FAR}:7443 ssl alpn h2 verify required ca-file {pki}/near/ca.pem crt {pki}/near/both.pem
"""
        far += f"""
listen far7443
    mode http
    http-reuse always
    bind {FAR}:7443 ssl alpn h2 crt {pki}/far/both.pem ca-file {pki}/far/ca.pem verify required
    server local 127.0.0.1:{HTTP_PORT}
"""
        started = []
        for zone, text in ((bench.far, far), (bench.near, near)):
            file = bench.folder / f"haproxy-{zone.name}.cfg"
            file.write_text(text)
            started.append(zone.start(bench.log(self.NAME, zone), "haproxy", "-db", "-f", file))
        return started
