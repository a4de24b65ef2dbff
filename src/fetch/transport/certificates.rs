//! Certificates that verify https servers.

use std::path::Path;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::fetch::error::{CertificateError, FetchError, FetchProblem};
use crate::host::named_file;

/// Most bytes of a file of certificates: the system's bundle has about 220 KiB.
const MAX_BUNDLE: usize = 16 << 20;
/// Bundles of trusted certificates in the distributions' places.
const BUNDLES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Reads the certificates of the configured file, else of the system's bundle.
///
/// Every certificate of a configured file has to be valid. The system's bundle may have some that
/// this program does not support; they are skipped. A missing bundle means no certificates.
pub(in crate::fetch) fn read_certificates(
    configured: Option<&Path>,
) -> Result<RootCertStore, FetchError> {
    let bundle = match configured {
        Some(path) => named_file::read(path, MAX_BUNDLE).map_err(|error| {
            FetchProblem::local("read the certificates", error).at(path.display().to_string())
        })?,
        None => BUNDLES
            .iter()
            .find_map(|path| named_file::read(Path::new(path), MAX_BUNDLE).ok())
            .unwrap_or_default(),
    };

    let mut certificates = RootCertStore::empty();
    for der in CertificateDer::pem_slice_iter(&bundle) {
        let added = der
            .map_err(CertificateError::from)
            .and_then(|der| Ok(certificates.add(der.into_owned())?));
        match (added, configured) {
            (Ok(()), _) | (Err(_), None) => {}
            (Err(error), Some(path)) => {
                let problem = FetchProblem::InvalidCertificate { source: Arc::new(error) };
                return Err(problem.at(path.display().to_string()));
            }
        }
    }
    Ok(certificates)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn configured_certificates_must_be_valid() {
        let file = tempfile::NamedTempFile::new().expect("scratch");
        assert_eq!(read_certificates(Some(file.path())).expect("an empty file").len(), 0);

        fs::write(file.path(), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
            .expect("scratch");
        assert!(read_certificates(Some(file.path())).is_err());
        assert!(read_certificates(Some(Path::new("/no/such/file"))).is_err());
        assert!(read_certificates(None).is_ok());
    }
}
