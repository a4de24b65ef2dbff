//! A repository behind TLS.

use super::*;

/// A TLS server of files that hold whole answers, headers included.
pub struct Secure {
    child: Child,
    pub port: u16,
    pub certificate: PathBuf,
}

impl Secure {
    pub fn start(directory: &Path) -> Self {
        let (key, certificate) = (directory.join("key.pem"), directory.join("cert.pem"));
        common::run(
            Command::new("openssl")
                .args([
                    "req",
                    "-x509",
                    "-newkey",
                    "ec",
                    "-pkeyopt",
                    "ec_paramgen_curve:prime256v1",
                    "-nodes",
                    "-subj",
                ])
                .args([
                    "/CN=test",
                    "-addext",
                    "subjectAltName=IP:127.0.0.1",
                    "-addext",
                    "basicConstraints=CA:FALSE",
                ])
                .arg("-keyout")
                .arg(&key)
                .arg("-out")
                .arg(&certificate),
        );
        let port = free_port();
        let child = Command::new("openssl")
            .args(["s_server", "-HTTP", "-quiet", "-accept", &format!("127.0.0.1:{port}")])
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
        open(&format!("https://127.0.0.1:{}/", self.port), &options, &site.spool_dir(), u64::MAX)
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
    fs::write(directory.join("node/catalog.toml"), "HTTP/1.0 200 OK\r\n\r\nformat = 1\n")
        .expect("scratch");
    let secure = Secure::start(&directory);
    let trusting = secure.repository(&site, Some(secure.certificate.clone()));
    let answer = trusting.fetch_catalog(None).expect("fetches");

    assert_eq!(answer, CatalogAnswer::Fetched { bytes: b"format = 1\n".to_vec(), etag: None });

    if let Ok(repository) = Repository::open(
        &format!("https://127.0.0.1:{}/", secure.port).parse().expect("a URL"),
        &node(),
        &patient_options(),
        None,
    ) {
        let error = repository.fetch_catalog(None).expect_err("nobody vouches for it");
        assert_eq!((error.kind, error.side), (Unreachable, Server), "{error}");
    }

    let away =
        format!("HTTP/1.0 302 Found\r\nLocation: {}node/catalog.toml\r\n\r\n", site.server.url());
    fs::write(directory.join("node/catalog.toml"), away).expect("scratch");
    let error = trusting.fetch_catalog(None).expect_err("http is less safe");

    assert_eq!((error.kind, error.side), (Other, Server), "{error}");
    assert_eq!(site.server.seen().len(), 0);
}
