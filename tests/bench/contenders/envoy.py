"""Envoy on both sides, twice: TLS for each TCP connection, and many TCP connections in HTTP/2 CONNECT streams."""

import json
import os

from network import FAR, HTTP_PORT, IPERF_PORT

THREADS = 2
STREAM_WINDOW_BYTES = 4 << 20
CONNECTION_WINDOW_BYTES = 16 << 20
MANY = 100_000
TYPE = "type.googleapis.com/envoy.extensions."
LIMITS = {"thresholds": [{"max_connections": MANY, "max_pending_requests": MANY, "max_requests": MANY}]}
WINDOWS = {
    "initial_stream_window_size": STREAM_WINDOW_BYTES,
    "initial_connection_window_size": CONNECTION_WINDOW_BYTES,
}


def address(ip, port):
    return {"socket_address": {"address": ip, "port_value": port}}


def typed(name, kind, **fields):
    return {"name": name, "typed_config": {"@type": TYPE + kind, **fields}}


class EnvoyTcp:
    NAME = "envoy-tcp"
    ALPN = None
    # Half as many requests a second as haproxy, November 2026.
    each_request = None
    bulk = ("127.0.0.1", 7011)
    http = ("127.0.0.1", 7012)

    def start(self, bench):
        pairs = ((self.bulk[1], 7451, IPERF_PORT), (self.http[1], 7452, HTTP_PORT))
        near = [self._near(bench, *pair) for pair in pairs]
        far = [self._far(bench, *pair) for pair in pairs]
        started = []
        for number, (zone, parts) in enumerate(((bench.far, far), (bench.near, near))):
            listeners, clusters = zip(*parts)
            file = bench.folder / f"{self.NAME}-{zone.name}.json"
            file.write_text(json.dumps({"static_resources": {"listeners": listeners, "clusters": clusters}}))
            arguments = ("-c", file, "--concurrency", THREADS, "--base-id", 70 + number, "-l", "warn")
            started.append(zone.start(bench.log(self.NAME, zone), os.environ["ENVOY"], *arguments))
        return started

    def _near(self, bench, local, link, _server):
        cluster = self._cluster(f"far{link}", FAR, link)
        context = {"common_tls_context": self._tls(bench, "near")}
        cluster["transport_socket"] = typed("tls", "transport_sockets.tls.v3.UpstreamTlsContext", **context)
        self._tune_cluster(cluster)
        proxy = typed("tcp", "filters.network.tcp_proxy.v3.TcpProxy", stat_prefix="near", cluster=cluster["name"])
        self._tune_proxy(proxy)
        return self._listener("127.0.0.1", local, [proxy]), cluster

    def _far(self, bench, _local, link, server):
        cluster = self._cluster(f"server{link}", "127.0.0.1", server)
        listener = self._listener(FAR, link, [self._far_filter(cluster["name"])])
        context = {"require_client_certificate": True, "common_tls_context": self._tls(bench, "far")}
        chain = listener["filter_chains"][0]
        chain["transport_socket"] = typed("tls", "transport_sockets.tls.v3.DownstreamTlsContext", **context)
        return listener, cluster

    def _far_filter(self, cluster):
        return typed("tcp", "filters.network.tcp_proxy.v3.TcpProxy", stat_prefix="far", cluster=cluster)

    def _tune_cluster(self, cluster):
        """TLS for each connection needs no more."""

    def _tune_proxy(self, proxy):
        """TLS for each connection needs no more."""

    def _tls(self, bench, side):
        pki = bench.folder / "pki" / side
        files = {"certificate_chain": {"filename": f"{pki}/cert.pem"}, "private_key": {"filename": f"{pki}/key.pem"}}
        context = {
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
            "tls_certificates": [files],
            "validation_context": {"trusted_ca": {"filename": f"{pki}/ca.pem"}},
        }
        return context | ({"alpn_protocols": self.ALPN} if self.ALPN else {})

    @staticmethod
    def _listener(ip, port, filters):
        return {"name": f"at{port}", "address": address(ip, port), "filter_chains": [{"filters": filters}]}

    @staticmethod
    def _cluster(name, ip, port):
        endpoint = {"endpoint": {"address": address(ip, port)}}
        assignment = {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]}
        return {
            "name": name,
            "type": "STATIC",
            "connect_timeout": "5s",
            "circuit_breakers": LIMITS,
            "load_assignment": assignment,
        }


class EnvoyH2(EnvoyTcp):
    NAME = "envoy-h2"
    ALPN = ["h2"]
    bulk = ("127.0.0.1", 7021)
    http = ("127.0.0.1", 7022)

    def _tune_cluster(self, cluster):
        options = {"explicit_http_config": {"http2_protocol_options": WINDOWS}}
        kind = "upstreams.http.v3.HttpProtocolOptions"
        cluster["typed_extension_protocol_options"] = {
            "envoy.extensions." + kind: {"@type": TYPE + kind, **options},
        }

    def _tune_proxy(self, proxy):
        proxy["typed_config"]["tunneling_config"] = {"hostname": "service:80"}

    def _far_filter(self, cluster):
        connect = {"upgrade_type": "CONNECT"}
        route = {
            "match": {"connect_matcher": {}},
            "route": {"cluster": cluster, "timeout": "0s", "upgrade_configs": [connect | {"connect_config": {}}]},
        }
        return typed(
            "http",
            "filters.network.http_connection_manager.v3.HttpConnectionManager",
            stat_prefix="far",
            codec_type="HTTP2",
            stream_idle_timeout="0s",
            upgrade_configs=[connect],
            http2_protocol_options=WINDOWS | {"allow_connect": True},
            route_config={"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
            http_filters=[typed("router", "filters.http.router.v3.Router")],
        )
