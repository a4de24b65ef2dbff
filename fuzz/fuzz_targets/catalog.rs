//! A head or a catalog; one that is read is written and read again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use systemimager::catalog::{Catalog, Head};
use systemimager::image::Layer;

fuzz_target!(|data: &[u8]| {
    let layer = Layer::Image("node".parse().expect("a name"));
    if let Ok(head) = Head::parse(data, &layer) {
        let text = head.to_toml().expect("a head is written");
        assert_eq!(Head::parse(text.as_bytes(), &layer).expect("and read"), head);
    }
    if let Ok(catalog) = Catalog::parse(data, &layer) {
        let text = catalog.to_toml().expect("a catalog is written");
        assert_eq!(Catalog::parse(text.as_bytes(), &layer).expect("and read"), catalog);
    }
});
