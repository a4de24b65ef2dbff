//! Allocation of the output of a patch.

use super::error::DeltaError;

/// Empties `output` and allocates `length` bytes.
pub(super) fn reserve_output(output: &mut Vec<u8>, length: u64) -> Result<(), DeltaError> {
    output.clear();

    let bytes = usize::try_from(length).map_err(|_| DeltaError::Memory(length))?;
    output.try_reserve_exact(bytes).map_err(|_| DeltaError::Memory(length))
}
