//! Whom an https server has to be vouched for by.

#![allow(
    clippy::disallowed_methods,
    reason = "certificates of the running system, or named by its administrator"
)]

use std::fs;
use std::path::Path;

use reqwest::Certificate;
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::fetch::error::{FetchError, FetchErrorKind, Side};

/// Where distributions keep the certificates that they trust.
const BUNDLES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The certificates of the file that was configured, else of the system; none where there is no file.
///
/// In a file that was configured every one has to be good; the system's may hold some that this program
/// does not understand.
pub(in crate::fetch) fn certificates(
    configured: Option<&Path>,
) -> Result<Vec<Certificate>, FetchError> {
    let bundle = match configured {
        Some(path) => fs::read(path)
            .map_err(|e| FetchError::local(path.display(), "read the certificates", e))?,
        None => BUNDLES.iter().find_map(|path| fs::read(path).ok()).unwrap_or_default(),
    };
    let mut good = Vec::new();
    for found in CertificateDer::pem_slice_iter(&bundle) {
        match (found.map_err(|e| e.to_string()).and_then(check), configured) {
            (Ok(certificate), _) => good.push(certificate),
            (Err(_), None) => {}
            (Err(why), Some(path)) => {
                let why = format!("a certificate in it is not valid: {why}");
                return Err(FetchError::new(
                    FetchErrorKind::Other,
                    Side::Node,
                    path.display(),
                    why,
                ));
            }
        }
    }
    Ok(good)
}

/// Refuses here what would make the whole client fail later.
fn check(der: CertificateDer<'_>) -> Result<Certificate, String> {
    let certificate = Certificate::from_der(&der).map_err(|e| e.to_string())?;
    RootCertStore::empty().add(der.into_owned()).map_err(|e| e.to_string())?;
    Ok(certificate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configured_file_has_to_be_right_and_the_systems_need_not_exist() {
        let file = tempfile::NamedTempFile::new().expect("scratch");
        assert_eq!(certificates(Some(file.path())).expect("names none").len(), 0);
        fs::write(file.path(), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
            .expect("scratch");
        assert!(certificates(Some(file.path())).is_err());
        assert!(certificates(Some(Path::new("/no/such/file"))).is_err());
        assert!(certificates(None).is_ok());
    }
}
