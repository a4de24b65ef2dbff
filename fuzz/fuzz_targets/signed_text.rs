//! A signed text; one that is divided is joined to the same bytes. Also key files.

#![no_main]

use libfuzzer_sys::fuzz_target;
use systemimager::signature::{KeySet, PublicKey, Role, SecretKeyFile, SignedText};

fuzz_target!(|data: &[u8]| {
    if let Ok(signed) = SignedText::split(data) {
        assert!(signed.verify(&KeySet::new(), Role::Head).is_err());
        if signed.is_signed() && !signed.unverified_text().is_empty() {
            let joined = SignedText::join(signed.unverified_text(), signed.signatures());
            assert_eq!(joined.expect("a file"), data);
        }
    }

    if let Ok(key) = PublicKey::parse(data) {
        assert_eq!(PublicKey::parse(key.to_file().as_bytes()), Ok(key));
    }
    let _ = SecretKeyFile::parse(data);
});
