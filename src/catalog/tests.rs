use super::*;

fn sample() -> Catalog {
    let id = |n: u8| GenerationId(Digest([n; 32]));
    let file = |name: &str| FileRef {
        file: RepoPath::new(name).expect("good"),
        size: 100,
        sha256: Digest([9; 32]),
    };
    let publish = |serial: u64| Publish {
        serial,
        generation: id(serial as u8),
        label: (serial == 2).then(|| "patch day".to_owned()),
        time: Timestamp::UNIX_EPOCH,
        entries: 3,
        bytes: 7,
        manifest: file("manifests/a.mtree.zst"),
    };
    Catalog {
        image: "node".parse().expect("good"),
        serial: 2,
        published: Timestamp::UNIX_EPOCH,
        expires: None,
        content: Some(file("content-2.idx.zst")),
        publishes: vec![publish(1), publish(2)],
        archives: vec![Archive {
            kind: ArchiveKind::Diff { base: id(1), target: id(2) },
            file: file("diffs/a-b.tar.zst"),
            first_frame: FirstFrame { length: 10, sha256: Digest([8; 32]) },
        }],
    }
}

fn parse(text: &str) -> Result<Catalog, CatalogError> {
    Catalog::parse(text.as_bytes(), &"node".parse().expect("good"))
}

#[test]
fn catalog_written_and_read() {
    let catalog = sample();
    assert_eq!(parse(&catalog.to_toml().expect("writes")).expect("reads"), catalog);
}

#[test]
fn unknown_format_refused_with_any_content() {
    assert!(matches!(
        parse("format = 2\nwonder = true\n"),
        Err(CatalogError::UnknownFormat { format: 2 })
    ));
}

#[test]
fn large_value_refused_before_it_is_parsed() {
    let text = sample().to_toml().expect("writes");
    let array = format!("x = [{}]\n", "0,".repeat(5_000_000));

    for place in ["serial = 2\npublished", "[content]\n", "[[publish]]\n", "[[archive]]\n"] {
        let (before, after) = text.split_once(place).expect("the place");
        let large = if place.starts_with('[') {
            format!("{before}{place}{array}{after}")
        } else {
            format!("{before}{array}{place}{after}")
        };
        let refused = parse(&large).expect_err("too large").to_string();
        assert!(refused.contains("longer than 65536 bytes"), "{place}: {refused}");
    }
}

#[test]
fn unknown_table_and_second_index_refused() {
    let text = sample().to_toml().expect("writes");
    let index = "[content]\nfile = \"b\"\nsize = 1\nsha256 = ";

    assert!(parse(&format!("{text}\n[wonder]\n")).is_err());
    let twice = format!("{text}\n{index}\"{}\"\n", Digest([9; 32]));
    assert!(parse(&twice).expect_err("two").to_string().contains("more than one content index"));
}

#[test]
fn catalog_of_other_image_refused() {
    let text = sample().to_toml().expect("writes");
    let other = Catalog::parse(text.as_bytes(), &"gpu".parse().expect("good"));
    assert!(matches!(other, Err(CatalogError::OtherImage { .. })));
}

#[test]
fn path_out_of_repository_refused() {
    let text = sample().to_toml().expect("writes");
    for bad in ["../../etc/shadow", "/etc/shadow", "a//b", ".scan/x", "a b"] {
        assert!(parse(&text.replace("diffs/a-b.tar.zst", bad)).is_err(), "{bad}");
    }
}

#[test]
fn contradiction_refused() {
    let text = sample().to_toml().expect("writes");

    for (from, to) in [
        ("serial = 2\npublished", "serial = 3\npublished"),
        ("length = 10", "length = 1000"),
        ("size = 100", "size = 99999999999999999"),
        ("kind = \"diff\"", "kind = \"full\""),
        ("[content]", "[wonder]"),
    ] {
        assert!(text.contains(from), "{from} in {text}");
        assert!(parse(&text.replacen(from, to, 1)).is_err(), "{to}");
    }
}
