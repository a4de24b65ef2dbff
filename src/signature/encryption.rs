//! Encryption of secret keys by a passphrase.

use std::fmt;

use zeroize::Zeroizing;

use super::error::KeyError;

/// Block size of scrypt, which libsodium has fixed.
const R: u32 = 8;
/// Fewest operations that libsodium uses.
const MIN_OPERATIONS: u64 = 32_768;
/// Most operations; minisign writes this value. They take a few seconds.
const MAX_OPERATIONS: u64 = 1 << 25;
/// Most memory in bytes; minisign writes this value.
const MAX_MEMORY: u64 = 1 << 30;

/// The secret that a person enters to use a key; zeroed on drop.
pub struct Passphrase(Zeroizing<Vec<u8>>);

impl Passphrase {
    /// The passphrase with exactly these bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        Passphrase(Zeroizing::new(bytes))
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl PartialEq for Passphrase {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase")
    }
}

/// Cost of the derivation of a key from a passphrase, as libsodium writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cost {
    /// Limit of operations.
    pub(super) operations: u64,
    /// Limit of memory in bytes.
    pub(super) memory: u64,
}

impl Cost {
    /// Cost of new keys: N = 2^17, r = 8, p = 1, which OWASP recommends.
    pub(super) const NEW: Cost = Cost { operations: 1 << 22, memory: 1 << 27 };

    /// Derives `LENGTH` bytes from a passphrase.
    pub(super) fn derive<const LENGTH: usize>(
        self,
        passphrase: &Passphrase,
        salt: &[u8; 32],
    ) -> Result<Zeroizing<[u8; LENGTH]>, KeyError> {
        let (log_n, p) = self.parameters()?;
        let out_of_bounds = KeyError::Cost { operations: self.operations, memory: self.memory };
        let parameters = scrypt::Params::new(log_n, R, p).map_err(|_| out_of_bounds.clone())?;
        require_memory(128 * R as usize * ((1 << log_n) + p as usize))?;

        let mut derived = Zeroizing::new([0; LENGTH]);
        scrypt::scrypt(&passphrase.0, salt, &parameters, derived.as_mut_slice())
            .map_err(|_| out_of_bounds)?;
        Ok(derived)
    }

    /// The base-2 logarithm of N, and p, as libsodium computes them.
    fn parameters(self) -> Result<(u8, u32), KeyError> {
        let Cost { operations, memory } = self;
        let out_of_bounds = KeyError::Cost { operations, memory };
        if operations > MAX_OPERATIONS || memory > MAX_MEMORY {
            return Err(out_of_bounds);
        }

        let operations = operations.max(MIN_OPERATIONS);
        let r = u64::from(R);
        if operations < memory / 32 {
            return Ok((floor_log2(operations / (4 * r)), 1));
        }
        let log_n = floor_log2(memory / (128 * r));
        let p = ((operations / 4) >> log_n) / r;
        match u32::try_from(p) {
            Ok(p) if p > 0 => Ok((log_n, p)),
            _ => Err(out_of_bounds),
        }
    }
}

/// Greatest exponent of 2 that is at most `limit`, and at least 1.
fn floor_log2(limit: u64) -> u8 {
    limit.checked_ilog2().unwrap_or(0).max(1) as u8
}

/// Fails if a block of memory cannot be allocated; scrypt itself would end the process.
fn require_memory(bytes: usize) -> Result<(), KeyError> {
    Vec::<u8>::new().try_reserve_exact(bytes).map_err(|_| KeyError::Memory { bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cost_gives_parameters_of_libsodium() {
        for (operations, memory, expected) in [
            (1 << 25, 1 << 30, (20, 1)),
            (1 << 22, 1 << 27, (17, 1)),
            (524_288, 1 << 24, (14, 1)),
            (32_768, 1 << 24, (10, 1)),
            (0, 1 << 20, (10, 1)),
            (1 << 25, 1 << 20, (10, 1024)),
            (1 << 25, 0, (1, 1 << 19)),
        ] {
            assert_eq!(Cost { operations, memory }.parameters(), Ok(expected), "{operations}");
        }
    }

    #[test]
    fn cost_above_that_of_minisign_refused_before_allocation() {
        for (operations, memory) in
            [(1 << 25, (1 << 30) + 1), ((1 << 25) + 1, 1 << 30), (u64::MAX, u64::MAX)]
        {
            let derived =
                Cost { operations, memory }.derive::<32>(&Passphrase::new(vec![]), &[0; 32]);

            assert_eq!(derived.map(|_| ()), Err(KeyError::Cost { operations, memory }));
        }
    }
}
