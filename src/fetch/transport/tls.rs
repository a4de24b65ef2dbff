//! TLS: trust in the server, and the certificate of this node.

use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use super::certificates::read_certificates;
use super::url::HttpUrl;
use crate::digest::Digest;
use crate::fetch::error::{CertificateError, FetchError, FetchProblem, RootCause};
use crate::fetch::options::{ClientCertificate, FetchOptions};
use crate::fetch::tls_pin::TlsPin;
use crate::host::named_file;

/// Most bytes of a file with a certificate or a key of this node.
const MAX_CLIENT_FILE: usize = 1 << 20;
/// Permission to read for others.
const OTHERS_READ: u32 = 0o004;

/// Configures TLS for connections to `base`, and to hosts to which it redirects.
///
/// A pin is enough to trust a server: its certificate may be self-signed or expired, and this
/// node's clock may be wrong. With pins and a file of certificates, both have to accept it.
pub(super) fn configure(
    base: &HttpUrl,
    options: &FetchOptions,
) -> Result<ClientConfig, FetchError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| client_error(base, error))?;

    let needs_certificates = options.tls_pins.is_empty() || options.ca_file.is_some();
    let roots = if needs_certificates {
        read_certificates(options.ca_file.as_deref())?
    } else {
        RootCertStore::empty()
    };
    if needs_certificates && base.url().scheme() == "https" && roots.is_empty() {
        return Err(FetchProblem::NoCertificates.at(base.to_string()));
    }
    let builder = if options.tls_pins.is_empty() {
        builder.with_root_certificates(roots)
    } else {
        let pins = options.tls_pins.clone();
        let mut chain = None;
        if !roots.is_empty() {
            chain = Some(chain_verifier(base, roots, &provider)?);
        }
        let verifier = PinVerifier { pins, chain, provider };
        builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
    };

    let mut config = match &options.client_certificate {
        None => builder.with_no_client_auth(),
        Some(files) => {
            let (chain, key) = (read_chain(&files.certificate)?, read_key(&files.key)?);
            builder.with_client_auth_cert(chain, key).map_err(|source| unusable(files, source))?
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// The verifier of a certificate chain.
fn chain_verifier(
    base: &HttpUrl,
    roots: RootCertStore,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>, FetchError> {
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .build()
        .map_err(|error| client_error(base, error))
}

fn client_error(
    base: &HttpUrl,
    error: impl std::error::Error + Send + Sync + 'static,
) -> FetchError {
    FetchProblem::HttpClient { source: RootCause::new(error) }.at(base.to_string())
}

/// Reads the certificates that this node shows.
fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, FetchError> {
    let place = || path.display().to_string();
    let bytes = named_file::read(path, MAX_CLIENT_FILE)
        .map_err(|e| FetchProblem::local("read the client certificate", e).at(place()))?;

    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let chain = chain.map_err(|error| {
        let source = Arc::new(CertificateError::from(error));
        FetchProblem::InvalidCertificate { source }.at(place())
    })?;
    if chain.is_empty() {
        return Err(FetchProblem::NoClientCertificate.at(place()));
    }
    Ok(chain)
}

/// Reads the private key of this node, which others must not be able to read.
fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, FetchError> {
    let place = || path.display().to_string();
    let failed = |e| FetchProblem::local("read the private key", e).at(place());
    let file = named_file::open(path).map_err(failed)?;
    if file.metadata().map_err(failed)?.permissions().mode() & OTHERS_READ != 0 {
        return Err(FetchProblem::OpenClientKey.at(place()));
    }

    let bytes = zeroize::Zeroizing::new(named_file::read(path, MAX_CLIENT_FILE).map_err(failed)?);
    PrivateKeyDer::from_pem_slice(&bytes)
        .map_err(|error| FetchProblem::InvalidClientKey { source: Arc::new(error) }.at(place()))
}

fn unusable(files: &ClientCertificate, error: rustls::Error) -> FetchError {
    let source = Arc::new(error);
    FetchProblem::ClientCertificate { source }.at(files.certificate.display().to_string())
}

/// Accepts servers with a pinned key only.
#[derive(Debug)]
struct PinVerifier {
    pins: Vec<TlsPin>,
    /// Verifies the chain as well, if certificates are configured.
    chain: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

/// Error for a server whose key is not pinned, inside an error of rustls.
#[derive(Debug)]
struct NotPinned {
    key: TlsPin,
}

/// The key of the server, if a handshake failed since no pin names it.
pub(super) fn unpinned_key(error: &rustls::Error) -> Option<TlsPin> {
    match error {
        rustls::Error::Other(OtherError(inner)) => {
            inner.downcast_ref().map(|NotPinned { key }| *key)
        }
        _ => None,
    }
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let key = TlsPin(Digest::of(&certificate.subject_public_key_info()));
        if !self.pins.contains(&key) {
            return Err(rustls::Error::Other(OtherError(Arc::new(NotPinned { key }))));
        }

        match &self.chain {
            Some(chain) => {
                chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            }
            None => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl std::error::Error for NotPinned {}

impl fmt::Display for NotPinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unexpected key {}", self.key)
    }
}
