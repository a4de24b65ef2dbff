use super::*;

fn layer() -> Layer {
    Layer::Image("node".parse().expect("good"))
}

/// A file in `directory` that is named by its digest, 32 bytes of `n`.
fn file(directory: &str, n: u8) -> FileRef {
    let sha256 = Digest([n; 32]);
    let name = format!("{directory}/a-{}", FileRef::digits(&sha256));
    FileRef { file: RepoPath::new(&name).expect("good"), size: 100, sha256 }
}

fn sample() -> Catalog {
    let id = |n: u8| GenerationId(Digest([n; 32]));
    let publish = |serial: u64| Publish {
        serial,
        generation: id(serial as u8),
        label: (serial == 2).then(|| "patch day".to_owned()),
        time: Timestamp::UNIX_EPOCH,
        entries: 3,
        bytes: 7,
        manifest: file("manifests", 9),
    };
    let torrent = file("torrents", 5);
    Catalog {
        layer: layer(),
        serial: 2,
        revision: 3,
        issued: Timestamp::UNIX_EPOCH,
        previous: Some(Digest([4; 32])),
        content: Some(IndexFile {
            file: file("content", 7),
            first_frame: FirstFrame { length: 20, sha256: Digest([2; 32]) },
        }),
        publishes: vec![publish(1), publish(2)],
        archives: vec![Archive {
            kind: ArchiveKind::Diff { base: id(1), target: id(2) },
            file: file("diffs", 6),
            first_frame: FirstFrame { length: 10, sha256: Digest([8; 32]) },
            needs: Vec::new(),
            torrent: Some(Torrent {
                file: torrent.file,
                size: torrent.size,
                sha256: torrent.sha256,
                info_hash: "ab".repeat(20),
                tracker: Some("announce".to_owned()),
            }),
        }],
        unreadable: Vec::new(),
        cluster_file: None,
    }
}

fn sample_head() -> Head {
    let catalog = FileRef { sha256: Digest([3; 32]), ..file("catalogs", 3) };
    let rollout = Rollout {
        canary: vec!["n[001-008]".to_owned()],
        start: Timestamp::UNIX_EPOCH,
        over: "24h".to_owned(),
    };
    Head {
        expires: Some(Timestamp::UNIX_EPOCH),
        paused: true,
        rollout: Some(rollout),
        ..Head::new(&sample(), &catalog, Timestamp::UNIX_EPOCH)
    }
}

fn parse(text: &str) -> Result<Catalog, CatalogError> {
    Catalog::parse(text.as_bytes(), &layer())
}

fn parse_head(text: &str) -> Result<Head, CatalogError> {
    Head::parse(text.as_bytes(), &layer())
}

#[test]
fn head_written_and_read() {
    let head = sample_head();
    assert_eq!(parse_head(&head.to_toml().expect("writes")).expect("reads"), head);
    assert!(head.check(&sample()).is_ok());

    let other = Catalog { revision: 4, ..sample() };
    assert!(head.check(&other).is_err());
}

#[test]
fn head_with_contradiction_or_unknown_key_refused() {
    let text = sample_head().to_toml().expect("writes");

    for (from, to) in [
        ("format = 2", "format = 3"),
        ("format = 2", "wonder = 1\nformat = 2"),
        ("kind = \"image\"", "kind = \"override\""),
        ("kind = \"image\"", "kind = \"wonder\""),
        ("name = \"node\"", "name = \"gpu\""),
        ("size = 100", "size = 16777217"),
        ("[rollout]", "[rollout]\nwonder = 1"),
        ("paused = true", "paused = 1"),
    ] {
        assert!(text.contains(from), "{from} in {text}");
        assert!(parse_head(&text.replacen(from, to, 1)).is_err(), "{to}");
    }
    assert!(parse_head(&format!("{text}#{}", "#".repeat(MAX_HEAD as usize))).is_err());
}

#[test]
fn optional_keys_are_ignored() {
    let optional = "\n[optional]\nwonder = [1, 2]\n[optional.more]\nx = true\n[[archive]]\n";
    let catalog = format!("{}{optional}", sample().to_toml().expect("writes"));
    let head = sample_head().to_toml().expect("writes");
    let head = format!("{head}{}", optional.trim_end_matches("[[archive]]\n"));

    assert_eq!(parse(&catalog).expect("reads"), sample());
    assert_eq!(parse_head(&head).expect("reads"), sample_head());
}

#[test]
fn archive_with_unknown_need_counts_as_absent() {
    let text = sample().to_toml().expect("writes");
    let text = text
        .replace("size = 100\nsha256 = \"0606", "needs = [\"x-1\"]\nsize = 100\nsha256 = \"0606");

    let catalog = parse(&text).expect("reads");

    assert!(catalog.archives.is_empty());
    assert_eq!(catalog.unreadable[0].needs, ["x-1"]);
    assert_eq!(parse(&catalog.to_toml().expect("writes")).expect("reads"), catalog);
}

#[test]
fn file_without_own_digest_in_name_refused() {
    let text = sample().to_toml().expect("writes");
    for n in [5, 6, 7, 9] {
        let name = FileRef::digits(&Digest([n; 32]));
        let other = text.replacen(&format!("a-{name}"), &format!("a-{}", "0".repeat(32)), 1);
        let refused = parse(&other).expect_err("another name").to_string();
        assert!(refused.contains("first digits of its digest"), "{refused}");
    }
}

#[test]
fn catalog_written_and_read() {
    let catalog = sample();
    assert_eq!(parse(&catalog.to_toml().expect("writes")).expect("reads"), catalog);
}

#[test]
fn unknown_format_refused_with_any_content() {
    assert!(matches!(
        parse("format = 3\nwonder = true\n"),
        Err(CatalogError::UnknownFormat { format: 3 })
    ));
}

#[test]
fn large_value_refused_before_it_is_parsed() {
    let text = sample().to_toml().expect("writes");
    let array = format!("x = [{}]\n", "0,".repeat(5_000_000));

    for place in ["serial = 2\nrevision", "[content]\n", "[[publish]]\n", "[[archive]]\n"] {
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
    let start = text.find("[content]").expect("an index");
    let end = text.find("[[publish]]").expect("a publish");

    assert!(parse(&format!("{text}\n[wonder]\n")).is_err());
    let twice = format!("{text}\n{}", &text[start..end]);
    assert!(parse(&twice).expect_err("two").to_string().contains("more than one content index"));
}

#[test]
fn catalog_of_other_layer_refused() {
    let text = sample().to_toml().expect("writes");
    let image = Layer::Image("gpu".parse().expect("good"));
    let same_name = Layer::Override("node".parse().expect("good"));
    for layer in [image, same_name] {
        let other = Catalog::parse(text.as_bytes(), &layer);
        assert!(matches!(other, Err(CatalogError::OtherLayer { .. })));
    }
}

#[test]
fn path_out_of_repository_refused() {
    let text = sample().to_toml().expect("writes");
    for bad in ["../../etc/shadow", "/etc/shadow", "a//b", ".scan/x", "a b"] {
        let good = sample().archives[0].file.file.to_string();
        let bad = format!("{bad}{}", FileRef::digits(&Digest([6; 32])));
        assert!(text.contains(&good) && parse(&text.replace(&good, &bad)).is_err(), "{bad}");
    }
}

#[test]
fn contradiction_refused() {
    let text = sample().to_toml().expect("writes");

    for (from, to) in [
        ("serial = 2\nrevision", "serial = 3\nrevision"),
        ("length = 10", "length = 1000"),
        ("length = 20", "length = 1000"),
        ("size = 100", "size = 99999999999999999"),
        ("kind = \"diff\"", "kind = \"full\""),
        ("[content]", "[wonder]"),
    ] {
        assert!(text.contains(from), "{from} in {text}");
        assert!(parse(&text.replacen(from, to, 1)).is_err(), "{to}");
    }
}

/// The catalog of a published `cluster.txt`.
fn cluster() -> Catalog {
    Catalog {
        layer: Layer::Cluster,
        content: None,
        publishes: Vec::new(),
        archives: Vec::new(),
        cluster_file: Some(file("files", 1)),
        ..sample()
    }
}

#[test]
fn cluster_has_one_file_and_no_generations() {
    let parse = |text: &str| Catalog::parse(text.as_bytes(), &Layer::Cluster);
    let text = cluster().to_toml().expect("writes");
    assert_eq!(parse(&text).expect("reads"), cluster());

    for (from, to) in [
        ("kind = \"cluster\"", "kind = \"image\""),
        ("name = \"cluster\"", "name = \"node\""),
        ("[file]", "[wonder]"),
        ("size = 100", "size = 100\nwonder = 1"),
        ("files/a-01", "files/a-02"),
    ] {
        assert!(text.contains(from), "{from} in {text}");
        assert!(parse(&text.replacen(from, to, 1)).is_err(), "{to}");
    }
    let file = &text[text.find("[file]").expect("a file")..];
    assert!(parse(&format!("{text}{file}")).is_err());

    let with_generations = Catalog { cluster_file: cluster().cluster_file, ..sample() };
    for layer in [layer(), Layer::Cluster] {
        let mixed = Catalog { layer: layer.clone(), ..with_generations.clone() };
        let text = mixed.to_toml().expect("writes");
        let error = Catalog::parse(text.as_bytes(), &layer).expect_err("both");
        assert!(matches!(error, CatalogError::Invalid(CatalogFault::ClusterFile)), "{error}");
    }
}

#[test]
fn cluster_and_image_of_that_name_are_distinct() {
    let image = Layer::Image("cluster".parse().expect("a name"));
    let text = cluster().to_toml().expect("writes");
    assert!(matches!(
        Catalog::parse(text.as_bytes(), &image),
        Err(CatalogError::OtherLayer { .. })
    ));

    let text = sample().to_toml().expect("writes");
    assert!(matches!(
        Catalog::parse(text.as_bytes(), &Layer::Cluster),
        Err(CatalogError::OtherLayer { .. })
    ));
}
