//! Who a node is: an ed25519 key, the node id that follows from it, and TLS with it.
//!
//! Both sides of a connection prove possession of their key in the TLS 1.3 handshake (raw public
//! keys, RFC 7250). Invariant: a peer's `NodeId` is only ever computed from the key it proved.
//! There are no certificates, no names and no session resumption, so every connection proves
//! anew. Whom to trust is not decided here.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use ed25519_dalek::SigningKey;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::ring;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{
    CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};
use rustls::server::AlwaysResolvesServerRawPublicKeys;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error,
    PeerIncompatible, ServerConfig, SignatureScheme,
};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

/// Names the protocol and its version: nodes of different versions do not connect.
pub(crate) const ALPN: &[u8] = b"xorfs/1";

/// DER in front of the 32 bytes of an ed25519 seed (RFC 8410, PKCS #8 version 1).
const PKCS8_PREFIX: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// DER in front of the 32 bytes of an ed25519 public key (RFC 8410, SubjectPublicKeyInfo).
const SPKI_PREFIX: [u8; 12] =
    [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// BLAKE3-256 of a node's ed25519 public key; also the node's point in XOR space.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId([u8; 32]);

/// A text that is not 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a node id is 64 hexadecimal digits, not {0:?}")]
pub struct ParseNodeIdError(String);

/// The secret of a node: the seed of its ed25519 key, wiped when dropped.
#[derive(Clone)]
pub struct Identity {
    seed: Zeroizing<[u8; 32]>,
}

impl NodeId {
    /// Takes an id as found on disk or on the wire.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes, most significant first.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    fn of_key(public: &[u8; 32]) -> Self {
        Self(*blake3::hash(public).as_bytes())
    }

    /// The id of whoever proved the key in `spki`; `None` where that is no ed25519 key.
    pub(crate) fn of_spki(spki: &[u8]) -> Option<Self> {
        let public = spki.strip_prefix(&SPKI_PREFIX)?.try_into().ok()?;
        Some(Self::of_key(public))
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeId(")?;
        self.0[..6].iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str(")")
    }
}

impl FromStr for NodeId {
    type Err = ParseNodeIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // A block id has the same text form; its parser is the one that is tested against input.
        match text.parse::<xorfs_store::BlockId>() {
            Ok(id) => Ok(Self(*id.as_bytes())),
            Err(_) => Err(ParseNodeIdError(text.to_owned())),
        }
    }
}

impl Identity {
    /// Draws a new identity from the system's generator.
    pub fn generate() -> Self {
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *seed).expect("the system's random generator works");
        Self { seed }
    }

    /// Takes the seed of an identity that was saved before.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self { seed: Zeroizing::new(seed) }
    }

    /// The seed, to be saved where only this user reads it.
    pub fn seed(&self) -> &[u8; 32] {
        &self.seed
    }

    /// The public name of this node.
    pub fn node_id(&self) -> NodeId {
        NodeId::of_key(&self.public())
    }

    fn public(&self) -> [u8; 32] {
        SigningKey::from_bytes(&self.seed).verifying_key().to_bytes()
    }

    fn certified_key(&self) -> Result<Arc<CertifiedKey>, Error> {
        let mut pkcs8 = [PKCS8_PREFIX.as_slice(), self.seed.as_slice()].concat();
        let signing = ring::sign::any_eddsa_type(&PrivatePkcs8KeyDer::from(pkcs8.as_slice()));
        pkcs8.zeroize();
        let spki = [SPKI_PREFIX.as_slice(), &self.public()].concat();
        Ok(Arc::new(CertifiedKey::new(vec![CertificateDer::from(spki)], signing?)))
    }

    /// TLS for connections we open.
    pub(crate) fn client_config(&self) -> Result<ClientConfig, Error> {
        let key = self.certified_key()?;
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyKey::new()))
            .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(key)));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        // The name would be sent in the clear and says nothing: peers are known by key.
        config.enable_sni = false;
        Ok(config)
    }

    /// TLS for connections we accept.
    pub(crate) fn server_config(&self) -> Result<ServerConfig, Error> {
        let key = self.certified_key()?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(Arc::new(AnyKey::new()))
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(key)));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.send_tls13_tickets = 0;
        Ok(config)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({:?})", self.node_id())
    }
}

/// Accepts every ed25519 key that the peer proves to hold. Which node it has to be is checked
/// against the derived id once the handshake is done.
#[derive(Debug)]
struct AnyKey {
    algorithms: WebPkiSupportedAlgorithms,
}

impl AnyKey {
    fn new() -> Self {
        Self { algorithms: ring::default_provider().signature_verification_algorithms }
    }

    fn check_key(spki: &CertificateDer<'_>, more: &[CertificateDer<'_>]) -> Result<(), Error> {
        match NodeId::of_spki(spki) {
            Some(_) if more.is_empty() => Ok(()),
            _ => Err(Error::InvalidCertificate(CertificateError::BadEncoding)),
        }
    }

    fn check_signature(
        &self,
        message: &[u8],
        spki: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let spki = SubjectPublicKeyInfoDer::from(spki.as_ref());
        verify_tls13_signature_with_raw_key(message, &spki, signature, &self.algorithms)
    }
}

impl ServerCertVerifier for AnyKey {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Self::check_key(end_entity, intermediates).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls13RequiredForQuic.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, cert, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for AnyKey {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Self::check_key(end_entity, intermediates).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls13RequiredForQuic.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, cert, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_follow_from_keys_and_round_trip_as_text() {
        let identity = Identity::from_seed([7; 32]);
        let id = identity.node_id();
        assert_eq!(id, Identity::from_seed([7; 32]).node_id());
        assert_ne!(id, Identity::from_seed([8; 32]).node_id());
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!("node".parse::<NodeId>().is_err());
    }

    #[test]
    fn only_ed25519_keys_name_a_node() {
        let identity = Identity::from_seed([7; 32]);
        let key = identity.certified_key().unwrap();
        assert_eq!(NodeId::of_spki(&key.cert[0]), Some(identity.node_id()));
        assert_eq!(NodeId::of_spki(&key.cert[0][..40]), None);
        assert_eq!(NodeId::of_spki(b"not a key"), None);
    }

    #[test]
    fn tls_accepts_the_identity() {
        let identity = Identity::generate();
        identity.client_config().unwrap();
        identity.server_config().unwrap();
    }
}
