//! Whole topology files: every example holds, and every mistake has a message that says what to do.
//!
//! `invalid/NAME.yaml` is read and all that is said about it is compared with `invalid/NAME.stderr`. Run with
//! `BLESS=1` to write the expected output anew, and read the difference before keeping it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use causeway_federation::topology::{
    Diagnostics, MAX_FILE_BYTES, Style, Surroundings, parse, parse_among, resolved, schema,
};

fn files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let entries = fs::read_dir(&folder).expect("the folder is part of the repository");
    let paths = entries.map(|entry| entry.expect("a readable folder").path());
    let mut paths: Vec<_> = paths
        .filter(|path| path.extension().is_some_and(|end| end == "yaml"))
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} holds no topologies", folder.display());
    paths
}

fn findings(path: &Path) -> Diagnostics {
    let text = fs::read_to_string(path).expect("a readable file");
    let name = path.file_name().expect("a file name").to_string_lossy();
    let around = Surroundings {
        // As for a gateway without privileges in the one file that is about it: low ports are usual.
        lowest_port: if name == "ports.yaml" { 1024 } else { 0 },
        ..Surroundings::default()
    };
    match parse_among(&text, &name, around) {
        Ok(parsed) => parsed.warnings,
        Err(findings) => findings,
    }
}

#[test]
fn every_example_holds_without_errors_or_warnings() {
    for path in files("../../topologies") {
        let findings = findings(&path);
        assert!(findings.is_empty(), "{findings:?}");
    }
}

#[test]
fn every_mistake_is_reported_at_its_place_with_a_hint() {
    let bless = std::env::var_os("BLESS").is_some();
    let mut different = Vec::new();
    for path in files("tests/invalid") {
        let findings = findings(&path);
        assert!(
            !findings.is_empty(),
            "{} has nothing wrong with it",
            path.display()
        );
        let shown = format!("{}{}\n", findings.render(Style::Plain), findings.summary());
        let expected_path = path.with_extension("stderr");
        if bless {
            fs::write(&expected_path, &shown).expect("a writable folder");
        }
        let expected = fs::read_to_string(&expected_path).unwrap_or_default();
        if shown != expected {
            different.push(format!("{}:\n{shown}", path.display()));
        }
    }
    assert!(
        different.is_empty(),
        "the output has changed:\n{}",
        different.join("\n")
    );
}

/// A topology as the editor's schema checker sees it: plain YAML values.
fn as_json(text: &str) -> serde_json::Value {
    serde_saphyr::from_str(text).expect("readable YAML")
}

#[test]
fn the_schema_takes_every_example_and_refuses_unknown_keys() {
    let schema = jsonschema::validator_for(&schema()).expect("a valid schema");
    for path in files("../../topologies") {
        let text = fs::read_to_string(&path).expect("a readable file");
        let errors: Vec<String> = schema
            .iter_errors(&as_json(&text))
            .map(|error| error.to_string())
            .collect();
        assert!(errors.is_empty(), "{}: {errors:?}", path.display());
        let at_the_top = format!("{text}\nextra: 1\n");
        let in_a_zone = text.replacen("    gateways:", "    extra: 1\n    gateways:", 1);
        for with_unknown_key in [at_the_top, in_a_zone] {
            assert_ne!(with_unknown_key, text);
            assert!(
                !schema.is_valid(&as_json(&with_unknown_key)),
                "{with_unknown_key} was taken"
            );
        }
    }
}

/// Every key of the format at once, as the reference shows it.
const EVERY_KEY: &str = "
version: 1
trust_domain: Acme.internal
trust_domains:
  acme.internal:
    bundle: |
      -----BEGIN CERTIFICATE-----
      MIIBzTCCAXSgAwIBAgIUYO57x2FwnVn4w7zuzSj/V0pAJh4wCgYIKoZIzj0EAwIw
      MjERMA8GA1UECgwIQ2F1c2V3YXkxHTAbBgNVBAMMFENhdXNld2F5IENBIDVlMzRl
      NGQ0MB4XDTI2MTEyMTIwNTMwOFoXDTM2MTExODIwNTQwOFowMjERMA8GA1UECgwI
      Q2F1c2V3YXkxHTAbBgNVBAMMFENhdXNld2F5IENBIDVlMzRlNGQ0MFkwEwYHKoZI
      zj0CAQYIKoZIzj0DAQcDQgAECHmmAXYi75hPHRoj7Ha9SkZe5Wf4sXR7R4RpFL3S
      zJhMJ0IQ8+954Im9/FFWlAjXle3sWSa7S8+LBDF65laf9qNoMGYwIQYDVR0RBBow
      GIYWc3BpZmZlOi8vYWNtZS5pbnRlcm5hbDAOBgNVHQ8BAf8EBAMCAQYwHQYDVR0O
      BBYEFF405NQ0sCEIT10FRSoNb8/6X1mvMBIGA1UdEwEB/wQIMAYBAf8CAQAwCgYI
      KoZIzj0EAwIDRwAwRAIgGJeIAQLSyZW3RyXnTrvmwzpQ5nHjnn8pNTiSW2cxjZUC
      IBHWznNJ3pY4OAqe2n2ylf2m81ODpJUd0Agxdc3muoY2
      -----END CERTIFICATE-----
  Partner.example:
    bundle: |
      -----BEGIN CERTIFICATE-----
      MIIB0DCCAXagAwIBAgIUZTYEn0lzVoR6xAhUHi4YzHG5QDEwCgYIKoZIzj0EAwIw
      MjERMA8GA1UECgwIQ2F1c2V3YXkxHTAbBgNVBAMMFENhdXNld2F5IENBIGM3MmMw
      OWU4MB4XDTI2MTEyMTIwNTMwOFoXDTM2MTExODIwNTQwOFowMjERMA8GA1UECgwI
      Q2F1c2V3YXkxHTAbBgNVBAMMFENhdXNld2F5IENBIGM3MmMwOWU4MFkwEwYHKoZI
      zj0CAQYIKoZIzj0DAQcDQgAE1O8UxNHz8s93hYcQZ8E64qSDSusMn6PBSlRED/gY
      G003AE5IKG5ZmiCv1w/bzl7lKd/jykf+SxfJaEPZeqhdx6NqMGgwIwYDVR0RBBww
      GoYYc3BpZmZlOi8vcGFydG5lci5leGFtcGxlMA4GA1UdDwEB/wQEAwIBBjAdBgNV
      HQ4EFgQUxywJ6AWEJR/HIBVuDh50nrImMt0wEgYDVR0TAQH/BAgwBgEB/wIBADAK
      BggqhkjOPQQDAgNIADBFAiA/7Ut9n0cfIMOmeRNz7SmODTs6bekyY6MBdS9H6f14
      xwIhALUpTQive2m4Ox1keLK973wiwor4Cp09zOHBQEVWHbLs
      -----END CERTIFICATE-----
dns: { domain: mesh, ttl: 5s }
apply_from: [east, west]
permissions: { default: deny, dry_run: true }
promises: [{ lose: any zone, keep: critical }, { lose: [west, plant], keep: [orders] }, { lose: any gateway, keep: normal }, { lose: east, keep: all }]
zones:
  east:
    tags: { region: us, runtime: vm }
    gateways: [gw.east.acme.internal:7800]
    instances:
      - { service: orders, address: 10.1.0.11:8080, tags: { version: 1.10 }, weight: 3, capacity: 500/s }
    sources:
      dns:
        - { service: orders, srv: _orders._tcp.acme.internal, tags: { version: v2 }, weight_from_srv: true }
        - { service: web, name: Web.acme.internal., port: 8080, weight: 2 }
  west:
    tags: { region: us, runtime: k8s }
    gateways: [{ addresses: [gw1.west.acme.internal:7800, '[fd00::1]:7800'] }, gw2.west.acme.internal:7800]
    vips: { routed: [10.96.0.0/16, 'fd00:96::/64'] }
  plant:
    trust_domain: partner.example
    tags: { region: eu, runtime: vm }
    gateways: []
    vips: { address: 10.0.0.5 }
    loopback_instances: true
    drain: { by: '2026-12-01T02:00:00Z' }
defaults:
  - { idle_timeout: 15m, limits: { connections: 9 } }
  - { name: 'we*', class: page, idle_timeout: 20m, health: { tcp: true } }
services:
  orders:
    port: 8080
    protocol: http
    health: &probe { http: /healthz, every: 2s, timeout: 1s, fall: 2, rise: 2 }
    split:
      - { tags: { version: 1.10 }, weight: 95 }
      - { tags: { version: v2 }, weight: 5 }
    shift: { to: { version: v2 }, steps: [5, 25, 50, 100], every: 5m, abort_if: ['success<99.5%', 'p99 > 300ms'], min_requests: 200, state: paused, step: 2, begun: '2026-12-01T02:00:00.125Z', since: '2026-12-01T02:05:00Z', resumed: '2026-12-01T02:04:00Z', by: east/gw1, because: by hand at west/gw1 }
    failover:
      - { zone: self }
      - { tags: { region: self } }
      - { zone: west }
    spill: { healthy_below: 70%, capacity: respect }
    criticality: critical
    criticality_from: [web]
    panic: false
    slow_start: 30s
    failback: { hold: 10s, ramp: 30s }
    export_to: [east, west, plant]
    run_in: [east, west]
    allow: [web, batch@east, { service: web, zone: west, tags: { version: v2 } }, 'spiffe://acme.internal/app/*', { service: shop, methods: [GET], path_prefix: /api/ }, { service: jobs, grpc: { service: acme.Jobs, method: Run } }]
    deny: ['*@plant', anonymous, { service: '*', path: /admin }, { service: '*', path_regex: '^/v[0-9]+/internal/' }]
    timeout: 10s
    retry: { attempts: 2, on: [connect-failure, reset, 503, resource-exhausted], per_try_timeout: 2s, methods: [GET, POST], budget: 20% }
    outlier: { consecutive: 5, eject: 30s, max: 50% }
    limits: { connections: 1024, pending: 1024, requests: 512, retries: 8, rate: 1000/s, rate_per_caller: 100/s }
    forwarded: replace
    sticky: { by: cookie, name: session, ttl: 1h, path: /shop }
    early: false
    idle_timeout: 15m
    connections: { linger: 30s, max_age: 1h }
    routes:
      - name: canary
        match: { methods: [GET, HEAD], path_prefix: /beta/, header: { X-Canary: '1' }, query: { debug: 1 }, host: Shop.example. }
        split: [{ tags: { version: v2 } }]
        timeout: 2s
        criticality: sheddable
        rewrite: { path_prefix: /, host: 'internal.example:8080' }
        request_headers: { set: { X-Route: canary }, add: { x-seen: here }, remove: [X-Debug] }
        response_headers: { set: { cache-control: no-store } }
        mirror: { service: orders, tags: { version: v3 }, percent: 10 }
      - match: { path_regex: '^/v[0-9]+/' }
        redirect: { status: 308, host: shop.example }
      - { match: { path: /old }, redirect: { path_prefix: /new } }
      - { match: { grpc: { service: pkg.Svc, method: Get }, caller: [web, { service: jobs, zone: east }] }, timeout: 1s, sticky: { by: header, name: X-User } }
      - { match: { host: fd00::1 }, answer: { status: 404, body: 'not here' } }
  web:
    protocol: http
    class: page
    health: *probe
    ports: { http: 80, admin: { port: 9090, protocol: tcp, target: 9091 }, calls: { port: 81, protocol: grpc, primary: true } }
    routes: [{ match: { port: http }, timeout: 1s }]
";

#[test]
fn every_key_of_the_format_has_a_validated_value() {
    let parsed = parse(EVERY_KEY, "every-key.yaml").unwrap();
    insta::assert_snapshot!(format!("{:#?}", parsed.topology));
    let codes: Vec<&str> = parsed.warnings.iter().map(|found| found.code).collect();
    let waiting = codes.iter().filter(|code| **code == "not-in-force").count();
    assert_eq!(waiting, 0, "no key waits for a later version: {codes:?}");
    let schema = jsonschema::validator_for(&schema()).expect("a valid schema");
    let errors: Vec<String> = schema
        .iter_errors(&as_json(EVERY_KEY))
        .map(|error| error.to_string())
        .collect();
    assert!(errors.is_empty(), "{errors:?}");
}

#[test]
fn a_service_has_what_it_says_and_then_what_later_defaults_say() {
    let text = "\
version: 1
trust_domain: acme.internal
zones: { east: { gateways: [], instances: [{ service: web, address: '10.0.0.1:80' }] } }
defaults:
  - { idle_timeout: 15m, timeout: 10s, limits: { connections: 9 } }
  - { name: 'w*', idle_timeout: 20m, protocol: http }
  - { class: inner, allow: [web] }
services:
  web: { port: 80, limits: { requests: 5 } }
  db:
    port: 5432
    class: inner
";
    let parsed = parse(text, "a.yaml").unwrap();
    let service = |name: &str| {
        let mut services = parsed.topology.services.iter();
        services.find(|(known, _)| known.as_str() == name).unwrap().1
    };
    let (web, db) = (service("web"), service("db"));
    let seconds = std::time::Duration::from_secs;
    assert_eq!(
        (web.idle_timeout, web.timeout),
        (Some(seconds(1200)), Some(seconds(10)))
    );
    assert_eq!(
        (web.limits.connections, web.limits.requests),
        (None, Some(5)),
        "a key is taken whole"
    );
    assert_eq!(
        (db.idle_timeout, db.timeout),
        (Some(seconds(900)), None),
        "it speaks no HTTP"
    );
    assert_eq!(db.limits.connections, Some(9));
    assert!(db.allow.is_some() && web.allow.is_none());
    let codes: Vec<&str> = parsed.warnings.iter().map(|found| found.code).collect();
    assert!(!codes.contains(&"needs-http"), "{codes:?}");
    insta::assert_snapshot!(resolved(text, "a.yaml").unwrap(), @r#"
version: 1  # line 1
trust_domain: acme.internal  # line 2
zones:
  east:  # line 3
    gateways: []  # line 3
    instances: [{ service: web, address: "10.0.0.1:80" }]  # line 3
services:
  web:  # line 9
    port: 80  # line 9
    limits: { requests: 5 }  # line 9
    idle_timeout: 20m  # line 6, defaults[1]
    protocol: http  # line 6, defaults[1]
    timeout: 10s  # line 5, defaults[0]
  db:  # line 10
    port: 5432  # line 11
    class: inner  # line 12
    allow: [web]  # line 7, defaults[2]
    idle_timeout: 15m  # line 5, defaults[0]
    limits: { connections: 9 }  # line 5, defaults[0]
"#);
}

#[test]
fn a_topology_with_its_defaults_merged_in_says_the_same() {
    let examples = files("../../topologies")
        .into_iter()
        .map(|path| fs::read_to_string(path).unwrap());
    for text in examples.chain([EVERY_KEY.to_owned()]) {
        let told = resolved(&text, "a.yaml").unwrap();
        let (mut before, after) = (parse(&text, "a.yaml").unwrap().topology, parse(&told, "b.yaml"));
        let after = after.unwrap_or_else(|findings| panic!("{findings:?}")).topology;
        before.fingerprint = after.fingerprint;
        assert_eq!(before, after, "{told}");
        assert!(!told.contains("defaults:"), "{told}");
    }
}

#[test]
fn the_fingerprint_is_that_of_the_text() {
    let one = parse(EVERY_KEY, "a").unwrap().topology.fingerprint;
    let same = parse(EVERY_KEY, "b").unwrap().topology.fingerprint;
    let other = parse(&format!("{EVERY_KEY}# more\n"), "a")
        .unwrap()
        .topology
        .fingerprint;
    assert_eq!(one, same);
    assert_ne!(one, other);
}

#[test]
fn findings_are_also_told_to_programs() {
    let text = "version: 1\ntrust_domain: acme.internal\nzones:\n  éast: { gateway: [] }\nservices: {}\n";
    let json = parse(text, "a.yaml").unwrap_err().to_json();
    assert_eq!(json["file"], "a.yaml");
    assert_eq!(json["errors"], 2);
    let found = &json["diagnostics"][1];
    assert_eq!(found["code"], "unknown-key");
    assert_eq!(found["did_you_mean"], "gateways");
    assert_eq!(found["line"], 4);
    assert_eq!(found["column"], 11, "columns count characters, not bytes");
    assert_eq!(found["end_column"], 18);
    assert_eq!(found["snippet"], "  éast: { gateway: [] }");
}

#[test]
fn a_file_with_thousands_of_mistakes_is_answered_with_the_first_of_them() {
    let mistakes: String = (0..5_000)
        .map(|number| format!("  Zone{number}: {{ gatewys: [] }}\n"))
        .collect();
    let text = format!("version: 1\ntrust_domain: acme.internal\nzones:\n{mistakes}services: {{}}\n");
    let findings = parse(&text, "a.yaml").unwrap_err();
    assert_eq!(
        findings.iter().count(),
        causeway_federation::topology::MAX_DIAGNOSTICS
    );
    assert!(findings.left_out() > 0);
}

#[test]
fn warnings_never_crowd_out_an_error() {
    let services: String = (0..1_000)
        .map(|number| format!("  s{number}: {{ port: 80 }}\n"))
        .collect();
    let bad = "  z: { port: 80, export_to: [nowhere] }\n";
    let text = format!(
        "version: 1\ntrust_domain: a.b\nzones: {{ east: {{ gateways: [] }} }}\nservices:\n{services}{bad}"
    );
    assert_eq!(parse(&text, "a.yaml").unwrap_err().errors(), 1);
}

#[test]
fn a_file_beyond_the_limit_is_refused_unread() {
    let text = format!("version: 1\n# {}\n", "x".repeat(MAX_FILE_BYTES));
    let findings = parse(&text, "a.yaml").unwrap_err();
    assert_eq!(findings.iter().next().unwrap().code, "too-large");
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in "(?s).{0,200}") {
        let _ = parse(&text, "any").map_err(|findings| findings.render(Style::Plain));
    }

    #[test]
    fn no_edit_of_a_good_file_makes_the_reader_panic(
        start in 0..EVERY_KEY.len(), length in 0usize..40, insert in "[\\[\\]{}:,&*!|>'\"\\- \n\ta-z0-9é]{0,6}"
    ) {
        let end = (start + length).min(EVERY_KEY.len());
        let text = format!("{}{insert}{}", &EVERY_KEY[..start], &EVERY_KEY[end..]);
        let _ = parse(&text, "edited").map_err(|findings| findings.render(Style::Plain));
    }
}
