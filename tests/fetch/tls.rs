//! A repository behind TLS.

use std::os::unix::fs::PermissionsExt;

use systemimager::fetch::{ClientCertificate, TlsPin};

use super::*;

/// A TLS server of files that hold whole answers, headers included.
pub struct Secure {
    child: Child,
    pub port: u16,
    pub certificate: PathBuf,
}

/// Makes a self-signed certificate `NAME-cert.pem` and its key `NAME-key.pem`.
fn certificate(directory: &Path, name: &str) -> ClientCertificate {
    let certificate = directory.join(format!("{name}-cert.pem"));
    let key = directory.join(format!("{name}-key.pem"));
    common::run(
        Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-nodes", "-subj", "/CN=test"])
            .args(["-pkeyopt", "ec_paramgen_curve:prime256v1"])
            .args(["-addext", "subjectAltName=IP:127.0.0.1"])
            .args(["-addext", "basicConstraints=CA:FALSE"])
            .arg("-keyout")
            .arg(&key)
            .arg("-out")
            .arg(&certificate),
    );
    fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).expect("chmod");
    ClientCertificate { certificate, key }
}

/// The pin of a certificate, by the command that the documents name.
fn pin(certificate: &Path) -> TlsPin {
    let pipe = "openssl x509 -in \"$1\" -noout -pubkey | openssl pkey -pubin -outform der |
        openssl dgst -sha256 -binary | openssl enc -base64";
    let text = common::run(Command::new("sh").args(["-ec", pipe, "sh"]).arg(certificate));
    format!("sha256//{}", text.trim()).parse().expect("a pin")
}

impl Secure {
    pub fn start(directory: &Path) -> Self {
        Secure::start_with(directory, &[])
    }

    /// Starts a server with more options of `openssl s_server`.
    fn start_with(directory: &Path, options: &[&str]) -> Self {
        let ClientCertificate { certificate, key } = certificate(directory, "server");
        let port = free_port();
        let child = Command::new("openssl")
            .args(["s_server", "-HTTP", "-quiet", "-accept", &format!("127.0.0.1:{port}")])
            .args(options)
            .arg("-key")
            .arg(key)
            .arg("-cert")
            .arg(&certificate)
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("openssl is installed");
        wait_for_server(port);

        Secure { child, port, certificate }
    }

    fn repository(&self, site: &Site, ca_file: Option<PathBuf>) -> Repository {
        let options = FetchOptions { ca_file, ..patient_options() };
        open(&self.url(), &options, &site.spool_dir(), u64::MAX)
    }

    fn url(&self) -> String {
        format!("https://127.0.0.1:{}/", self.port)
    }

    /// Requests the catalog.
    fn answer(&self, options: FetchOptions) -> Result<HeadAnswer, FetchError> {
        let url = self.url().parse().expect("a URL");
        Repository::open(&url, &node(), &options, None)?.fetch_head(None)
    }
}

impl Drop for Secure {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn untrusted_certificate_and_redirect_to_http_are_refused() {
    require!(Program("openssl"));

    let site = Site::new();
    let directory = site.scratch.path().join("secure");
    fs::create_dir_all(directory.join("node")).expect("scratch");
    fs::write(directory.join("node/head.toml"), "HTTP/1.0 200 OK\r\n\r\nformat = 1\n")
        .expect("scratch");
    let secure = Secure::start(&directory);
    let trusting = secure.repository(&site, Some(secure.certificate.clone()));
    let answer = trusting.fetch_head(None).expect("fetches");

    assert_eq!(answer, HeadAnswer::Fetched { bytes: b"format = 1\n".to_vec(), etag: None });

    if let Ok(repository) =
        Repository::open(&secure.url().parse().expect("a URL"), &node(), &patient_options(), None)
    {
        let error = repository.fetch_head(None).expect_err("nobody vouches for it");
        assert_eq!((error.kind, error.side), (Unreachable, Server), "{error}");
    }

    let away =
        format!("HTTP/1.0 302 Found\r\nLocation: {}node/head.toml\r\n\r\n", site.server.url());
    fs::write(directory.join("node/head.toml"), away).expect("scratch");
    let error = trusting.fetch_head(None).expect_err("http is less safe");

    assert_eq!((error.kind, error.side), (Other, Server), "{error}");
    assert_eq!(site.server.seen().len(), 0);
}

/// A directory that a server serves, with a catalog.
fn served(site: &Site) -> PathBuf {
    let directory = site.scratch.path().join("secure");
    fs::create_dir_all(directory.join("node")).expect("scratch");
    fs::write(directory.join("node/head.toml"), "HTTP/1.0 200 OK\r\n\r\nformat = 1\n")
        .expect("scratch");
    directory
}

#[test]
fn pinned_key_is_enough_and_no_other_is_accepted() {
    require!(Program("openssl"));
    let site = Site::new();
    let directory = served(&site);
    let secure = Secure::start(&directory);
    let other = certificate(&directory, "other").certificate;
    let own = || pin(&secure.certificate);

    for (case, pins, ca_file, is_accepted) in [
        ("only the pin", vec![own()], None, true),
        ("one of two pins", vec![pin(&other), own()], None, true),
        ("another pin", vec![pin(&other)], None, false),
        ("pin and certificate", vec![own()], Some(secure.certificate.clone()), true),
        ("another certificate", vec![own()], Some(other.clone()), false),
        ("certificate, another pin", vec![pin(&other)], Some(secure.certificate.clone()), false),
    ] {
        let options = FetchOptions { tls_pins: pins, ca_file, ..patient_options() };

        let answer = secure.answer(options);

        assert_eq!(answer.is_ok(), is_accepted, "{case}: {answer:?}");
        if let Err(error) = answer {
            assert_eq!((error.kind, error.side), (Unreachable, Server), "{case}: {error}");
        }
    }
    let options = FetchOptions { tls_pins: vec![pin(&other)], ..patient_options() };
    let error = secure.answer(options).expect_err("another pin").to_string();
    assert!(error.contains(&format!("{}, which is not among tls_pins", own())), "{error}");
}

#[test]
fn client_certificate_is_shown_to_server_that_asks() {
    require!(Program("openssl"));
    let site = Site::new();
    let directory = served(&site);
    let (own, other) = (certificate(&directory, "node"), certificate(&directory, "other"));
    let authority = own.certificate.display().to_string();
    let secure = Secure::start_with(
        &directory,
        &["-Verify", "0", "-verify_return_error", "-CAfile", &authority],
    );
    let options = |client_certificate| FetchOptions {
        ca_file: Some(secure.certificate.clone()),
        client_certificate,
        ..patient_options()
    };

    secure.answer(options(Some(own.clone()))).expect("the server knows it");
    for client in [None, Some(other.clone())] {
        secure.answer(options(client)).expect_err("the server refuses");
    }

    let mixed = ClientCertificate { key: other.key.clone(), ..own.clone() };
    let absent = ClientCertificate { key: directory.join("absent"), ..own.clone() };
    let no_key = ClientCertificate { key: own.certificate.clone(), ..own.clone() };
    let open = ClientCertificate { key: directory.join("open.pem"), ..own.clone() };
    fs::copy(&own.key, &open.key).expect("copies");
    fs::set_permissions(&open.key, PermissionsExt::from_mode(0o644)).expect("chmod");
    fs::set_permissions(&own.certificate, PermissionsExt::from_mode(0o600)).expect("chmod");
    for (client, reason) in [
        (mixed, "cannot be used"),
        (absent, "cannot read the private key"),
        (no_key, "no usable private key"),
        (open, "everyone can read"),
    ] {
        let error = secure.answer(options(Some(client))).expect_err("is refused");
        assert_eq!(error.side, Node, "{error}");
        assert!(error.to_string().contains(reason), "{error}");
    }
}
