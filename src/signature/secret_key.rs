//! Secret keys and their files.

use std::fmt;

use blake2::digest::consts::U32;
use blake2::{Blake2b, Digest as _};
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{Ed25519KeyPair, KeyPair};
use zeroize::Zeroizing;

use super::block::{SignatureAlgorithm, SignatureBlock, global_message};
use super::comment::{self, UNTRUSTED};
use super::encryption::{Cost, Passphrase};
use super::error::{KeyError, SignatureError};
use super::key_id::KeyId;
use super::public_key::{ALGORITHM, PublicKey, key_line};

/// Algorithm of the encryption: scrypt.
const SCRYPT: &[u8; 2] = b"Sc";
/// No encryption.
const UNENCRYPTED: &[u8; 2] = &[0, 0];
/// Algorithm of the checksum: BLAKE2b.
const CHECKSUM: &[u8; 2] = b"B2";
/// Checksum that minisign writes into a key without encryption.
const NO_CHECKSUM: [u8; 32] = [0; 32];
/// Bytes of the part that is encrypted: key id, seed, public key, checksum.
const PRIVATE_LENGTH: usize = 104;
/// Bytes of a secret key file, decoded.
const LENGTH: usize = 158;

/// A key that signs.
pub struct SecretKey {
    pair: Ed25519KeyPair,
    seed: Zeroizing<[u8; 32]>,
    public_key: PublicKey,
}

/// Protection of a secret key in its file.
#[derive(Clone, Copy, Debug)]
pub enum Protection<'a> {
    /// Encryption.
    Passphrase(&'a Passphrase),
    /// Only the permissions of the file.
    None,
}

/// A secret key file.
#[derive(Debug)]
pub enum SecretKeyFile {
    /// Usable at once.
    Plain(SecretKey),
    /// Usable with its passphrase.
    Encrypted(EncryptedKey),
}

/// A secret key that needs its passphrase.
pub struct EncryptedKey {
    cost: Cost,
    salt: [u8; 32],
    private: [u8; PRIVATE_LENGTH],
}

impl SecretKey {
    /// Makes a new key.
    pub fn generate() -> Result<Self, KeyError> {
        let mut id = [0; 8];
        let mut seed = Zeroizing::new([0; 32]);
        fill_randomly(&mut id)?;
        fill_randomly(seed.as_mut_slice())?;

        let pair =
            Ed25519KeyPair::from_seed_unchecked(seed.as_slice()).map_err(|_| KeyError::Mismatch)?;
        let mut key = [0; 32];
        key.copy_from_slice(pair.public_key().as_ref());
        Ok(SecretKey { pair, seed, public_key: PublicKey { id: KeyId(id), key } })
    }

    /// The part that verifies signatures of this key.
    pub fn public_key(&self) -> PublicKey {
        self.public_key
    }

    /// Signs a text, and the comment with it.
    pub fn sign(
        &self,
        text: &[u8],
        trusted_comment: &str,
    ) -> Result<SignatureBlock, SignatureError> {
        comment::check_comment(trusted_comment)
            .map_err(|fault| SignatureError::BadComment { fault })?;

        let signature = self.sign_bytes(text);
        let global_signature = self.sign_bytes(&global_message(&signature, trusted_comment));
        Ok(SignatureBlock {
            untrusted_comment: format!("signature by key {}", self.public_key.id),
            algorithm: SignatureAlgorithm::Pure,
            key_id: self.public_key.id,
            signature,
            trusted_comment: trusted_comment.to_owned(),
            global_signature,
        })
    }

    /// Content of a secret key file.
    pub fn to_file(&self, protection: Protection<'_>) -> Result<Zeroizing<String>, KeyError> {
        let mut private = Zeroizing::new([0; PRIVATE_LENGTH]);
        private[..8].copy_from_slice(&self.public_key.id.0);
        private[8..40].copy_from_slice(self.seed.as_slice());
        private[40..72].copy_from_slice(&self.public_key.key);
        let checksum = checksum(&private);
        private[72..].copy_from_slice(&checksum);

        let mut salt = [0; 32];
        let mut cost = Cost { operations: 0, memory: 0 };
        let (kind, algorithm) = match protection {
            Protection::None => ("unencrypted", UNENCRYPTED),
            Protection::Passphrase(passphrase) => {
                cost = Cost::NEW;
                fill_randomly(&mut salt)?;
                let pad = cost.derive::<PRIVATE_LENGTH>(passphrase, &salt)?;
                exclusive_or(&mut private, &pad);
                ("encrypted", SCRYPT)
            }
        };

        let mut bytes = Zeroizing::new(Vec::with_capacity(LENGTH));
        for part in [&ALGORITHM, algorithm, CHECKSUM] {
            bytes.extend_from_slice(part);
        }
        bytes.extend_from_slice(&salt);
        bytes.extend_from_slice(&cost.operations.to_le_bytes());
        bytes.extend_from_slice(&cost.memory.to_le_bytes());
        bytes.extend_from_slice(private.as_slice());

        let line = Zeroizing::new(comment::base64(&bytes));
        let id = self.public_key.id;
        Ok(Zeroizing::new(format!("{UNTRUSTED}minisign {kind} secret key {id}\n{}\n", *line)))
    }

    /// The key in the decrypted part of a file, after its checksum was verified.
    fn from_private(private: &[u8; PRIVATE_LENGTH]) -> Result<Self, KeyError> {
        let mut id = [0; 8];
        let mut seed = Zeroizing::new([0; 32]);
        let mut key = [0; 32];
        id.copy_from_slice(&private[..8]);
        seed.copy_from_slice(&private[8..40]);
        key.copy_from_slice(&private[40..72]);

        let pair = Ed25519KeyPair::from_seed_and_public_key(seed.as_slice(), &key)
            .map_err(|_| KeyError::Mismatch)?;
        Ok(SecretKey { pair, seed, public_key: PublicKey { id: KeyId(id), key } })
    }

    fn sign_bytes(&self, message: &[u8]) -> [u8; 64] {
        let mut bytes = [0; 64];
        bytes.copy_from_slice(self.pair.sign(message).as_ref());
        bytes
    }
}

impl SecretKeyFile {
    /// Reads the content of a secret key file.
    pub fn parse(file: &[u8]) -> Result<Self, KeyError> {
        let line = key_line(file)?;
        let bytes: Zeroizing<[u8; LENGTH]> = comment::read_base64(line)
            .map(Zeroizing::new)
            .map_err(|fault| KeyError::BadLine { line: 2, fault })?;
        let (algorithm, encryption, checksum_algorithm) = (&bytes[..2], &bytes[2..4], &bytes[4..6]);
        if algorithm != ALGORITHM || checksum_algorithm != CHECKSUM {
            return Err(KeyError::Algorithm);
        }

        let mut private = Zeroizing::new([0; PRIVATE_LENGTH]);
        private.copy_from_slice(&bytes[54..]);
        if encryption == UNENCRYPTED {
            if private[72..] != NO_CHECKSUM && checksum(&private) != private[72..] {
                return Err(KeyError::Damaged);
            }
            return SecretKey::from_private(&private).map(SecretKeyFile::Plain);
        }
        if encryption != SCRYPT {
            return Err(KeyError::Algorithm);
        }

        let mut salt = [0; 32];
        salt.copy_from_slice(&bytes[6..38]);
        let cost = Cost { operations: number(&bytes[38..46]), memory: number(&bytes[46..54]) };
        Ok(SecretKeyFile::Encrypted(EncryptedKey { cost, salt, private: *private }))
    }
}

impl EncryptedKey {
    /// Decrypts the key; takes up to a few seconds and 1 GiB of memory.
    pub fn decrypt(&self, passphrase: &Passphrase) -> Result<SecretKey, KeyError> {
        let pad = self.cost.derive::<PRIVATE_LENGTH>(passphrase, &self.salt)?;
        let mut private = Zeroizing::new(self.private);
        exclusive_or(&mut private, &pad);

        if checksum(&private) != private[72..] {
            return Err(KeyError::WrongPassphrase);
        }
        SecretKey::from_private(&private)
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey({})", self.public_key.id)
    }
}

impl fmt::Debug for EncryptedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EncryptedKey").field("cost", &self.cost).finish_non_exhaustive()
    }
}

/// BLAKE2b-256 of the algorithm, the key id, the seed and the public key.
fn checksum(private: &[u8; PRIVATE_LENGTH]) -> [u8; 32] {
    let hasher = Blake2b::<U32>::new().chain_update(ALGORITHM).chain_update(&private[..72]);
    hasher.finalize().into()
}

fn exclusive_or(bytes: &mut [u8; PRIVATE_LENGTH], pad: &[u8; PRIVATE_LENGTH]) {
    for (byte, pad) in bytes.iter_mut().zip(pad) {
        *byte ^= pad;
    }
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

fn fill_randomly(bytes: &mut [u8]) -> Result<(), KeyError> {
    SystemRandom::new().fill(bytes).map_err(|_| KeyError::Random)
}
