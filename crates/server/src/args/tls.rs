//! Flags of HTTPS.

#[cfg(feature = "tls")]
pub use with::{Tls, TlsArgs};
#[cfg(not(feature = "tls"))]
pub use without::{Tls, TlsArgs};

/// A build without the feature `tls`.
#[cfg(not(feature = "tls"))]
mod without {
    use llama_diffusion::Result;

    /// There is none.
    pub use std::convert::Infallible as Tls;

    /// No flags: those of llama-server are refused.
    #[derive(Debug, clap::Args)]
    pub struct TlsArgs {}

    impl TlsArgs {
        /// No HTTPS.
        pub fn config(&self) -> Result<Option<Tls>> {
            Ok(None)
        }
    }
}

#[cfg(feature = "tls")]
mod with {
    use std::path::{Path, PathBuf};
    use std::sync::Arc;

    pub use axum_server::tls_rustls::RustlsConfig as Tls;
    use llama_diffusion::{Error, Result};
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use rustls::{ServerConfig, crypto};

    const KEY: &str = "--ssl-key-file";
    const CERTIFICATE: &str = "--ssl-cert-file";

    /// Whether the server speaks HTTPS, and by which certificate.
    #[derive(Debug, clap::Args)]
    pub struct TlsArgs {
        /// File with the private key for HTTPS, in PEM
        #[arg(long, value_name = "FILE", requires = "ssl_cert_file")]
        ssl_key_file: Option<PathBuf>,

        /// File with the certificate of that key, in PEM, and with those that sign it
        #[arg(long, value_name = "FILE", requires = "ssl_key_file")]
        ssl_cert_file: Option<PathBuf>,
    }

    impl TlsArgs {
        /// What the server shows its clients.
        ///
        /// # Errors
        /// A file cannot be read or has something else, or the key is not that of the certificate.
        pub fn config(&self) -> Result<Option<Tls>> {
            let (Some(key), Some(certificate)) = (&self.ssl_key_file, &self.ssl_cert_file) else {
                return Ok(None);
            };
            let chain = chain(certificate)?;
            let secret = secret(key)?;
            let provider = Arc::new(crypto::ring::default_provider());
            let builder = ServerConfig::builder_with_provider(provider);
            let made = builder
                .with_safe_default_protocol_versions()
                .map(ServerConfigBuilder::with_no_client_auth)
                .and_then(|builder| builder.with_single_cert(chain, secret));
            let mut config = made.map_err(|error| match error {
                rustls::Error::InconsistentKeys(_) => {
                    let problem = format!(
                        "it is not the key of the certificate in {}",
                        certificate.display()
                    );
                    wrong(KEY, key, problem)
                }
                rustls::Error::InvalidCertificate(_) => {
                    wrong(CERTIFICATE, certificate, error.to_string())
                }
                error => wrong(KEY, key, error.to_string()),
            })?;
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
            Ok(Some(Tls::from_config(Arc::new(config))))
        }
    }

    type ServerConfigBuilder = rustls::ConfigBuilder<ServerConfig, rustls::WantsVerifier>;

    fn wrong(flag: &str, path: &Path, problem: String) -> Error {
        Error::Input {
            name: format!("{flag} {}", path.display()),
            problem,
        }
    }

    fn read(flag: &str, path: &Path) -> Result<Vec<u8>> {
        std::fs::read(path).map_err(|error| wrong(flag, path, error.to_string()))
    }

    /// The certificates in a file, the server's own first.
    fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
        let bytes = read(CERTIFICATE, path)?;
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
        match chain {
            Ok(chain) if chain.is_empty() => Err(wrong(
                CERTIFICATE,
                path,
                "it has no certificate in PEM".into(),
            )),
            Ok(chain) => Ok(chain),
            Err(error) => Err(wrong(CERTIFICATE, path, error.to_string())),
        }
    }

    /// The private key in a file.
    fn secret(path: &Path) -> Result<PrivateKeyDer<'static>> {
        use rustls::pki_types::pem::Error;

        let bytes = read(KEY, path)?;
        PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| match error {
            Error::NoItemsFound => {
                let problem = "it has no private key in PEM, or one with a passphrase: remove that";
                wrong(KEY, path, problem.into())
            }
            error => wrong(KEY, path, error.to_string()),
        })
    }
}
