//! A catalog; one that is read is written and read again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use systemimager::catalog::Catalog;

fuzz_target!(|data: &[u8]| {
    let name = "node".parse().expect("a name");
    if let Ok(catalog) = Catalog::parse(data, &name) {
        let text = catalog.to_toml().expect("a catalog is written");
        assert_eq!(Catalog::parse(text.as_bytes(), &name).expect("and read"), catalog);
    }
});
