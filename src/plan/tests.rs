use super::*;
use crate::catalog::{FileRef, FirstFrame, IndexFile, Publish};
use crate::digest::Digest;
use crate::image::Layer;

fn id(n: u8) -> GenerationId {
    GenerationId(Digest([n; 32]))
}

fn file(name: &str, size: u64) -> FileRef {
    FileRef { file: RepoPath::new(name).expect("good"), size, sha256: Digest([0; 32]) }
}

fn catalog(generations: u8, diffs: &[(u8, u8, u64)], full: Option<u64>) -> Catalog {
    let publish = |n: u8| Publish {
        serial: n.into(),
        generation: id(n),
        label: None,
        time: jiff::Timestamp::UNIX_EPOCH,
        entries: 1,
        bytes: 1_000_000,
        manifest: file("m", 1),
    };
    let frame = FirstFrame { length: 1, sha256: Digest([0; 32]) };
    let diff = |&(from, to, size): &(u8, u8, u64)| Archive {
        kind: ArchiveKind::Diff { base: id(from), target: id(to) },
        file: file(&format!("diffs/{from}-{to}"), size),
        first_frame: frame,
        needs: Vec::new(),
        torrent: None,
    };
    let full = full.map(|size| Archive {
        kind: ArchiveKind::Full { target: id(generations) },
        file: file("full/x", size),
        first_frame: frame,
        needs: Vec::new(),
        torrent: None,
    });
    Catalog {
        layer: Layer::Image("node".parse().expect("good")),
        serial: generations.into(),
        revision: 0,
        issued: jiff::Timestamp::UNIX_EPOCH,
        previous: None,
        unreadable: Vec::new(),
        cluster_file: None,
        content: None,
        publishes: (1..=generations).map(publish).collect(),
        archives: diffs.iter().map(diff).chain(full).collect(),
    }
}

fn chain_files(plan: &UpdatePlan) -> Vec<&str> {
    match plan {
        UpdatePlan::Diffs(chain) => chain.diffs().iter().map(|a| a.file.file.as_str()).collect(),
        other => panic!("no diffs: {other:?}"),
    }
}

#[test]
fn installed_head_needs_nothing() {
    assert_eq!(
        choose(Some(id(2)), &catalog(2, &[(1, 2, 5)], None), &HashSet::new()),
        UpdatePlan::Nothing
    );
}

#[test]
fn smallest_chain_chosen_not_shortest() {
    let catalog = catalog(3, &[(1, 2, 5), (2, 3, 5), (1, 3, 11)], None);
    assert_eq!(
        chain_files(&choose(Some(id(1)), &catalog, &HashSet::new())),
        ["diffs/1-2", "diffs/2-3"]
    );
}

#[test]
fn broken_archive_avoided() {
    let catalog = catalog(3, &[(1, 2, 5), (2, 3, 5), (1, 3, 11)], None);
    let broken = HashSet::from([RepoPath::new("diffs/2-3").expect("good")]);
    assert_eq!(chain_files(&choose(Some(id(1)), &catalog, &broken)), ["diffs/1-3"]);
    let plan = choose(Some(id(2)), &catalog, &broken);
    assert_eq!(plan, UpdatePlan::Full(FullSyncReason::BrokenChain(broken.into_iter().collect())));
}

#[test]
fn full_sync_reasons_distinguished() {
    let none = HashSet::new();
    let catalog = catalog(3, &[(2, 3, 100_000)], Some(40));

    assert_eq!(choose(None, &catalog, &none), UpdatePlan::Full(FullSyncReason::NotRecorded));
    assert_eq!(
        choose(Some(id(9)), &catalog, &none),
        UpdatePlan::Full(FullSyncReason::UnknownGeneration(id(9)))
    );
    assert_eq!(
        choose(Some(id(1)), &catalog, &none),
        UpdatePlan::Full(FullSyncReason::NoChain(id(1)))
    );
    assert_eq!(
        choose(Some(id(2)), &catalog, &none),
        UpdatePlan::Full(FullSyncReason::ChainTooLarge { chain: 100_000, full: 40 + 65_536 })
    );
}

#[test]
fn full_sync_costs_archive_and_index() {
    let mut catalog = catalog(2, &[(1, 2, 65_586)], Some(40));
    let frame = FirstFrame { length: 1, sha256: Digest([0; 32]) };
    let choose = |catalog: &Catalog| choose(Some(id(1)), catalog, &HashSet::new());

    catalog.content = Some(IndexFile { file: file("content/x", 9), first_frame: frame });
    let smaller = choose(&catalog);
    catalog.content = Some(IndexFile { file: file("content/x", 10), first_frame: frame });
    let equal = choose(&catalog);

    let reason = FullSyncReason::ChainTooLarge { chain: 65_586, full: 65_585 };
    assert_eq!(smaller, UpdatePlan::Full(reason));
    assert!(matches!(equal, UpdatePlan::Diffs(_)), "{equal:?}");
}

#[test]
fn chain_with_repeated_generation_possible() {
    let catalog = catalog(3, &[(1, 2, 5), (2, 1, 5), (2, 3, 5), (3, 2, 1)], None);
    assert_eq!(
        chain_files(&choose(Some(id(1)), &catalog, &HashSet::new())),
        ["diffs/1-2", "diffs/2-3"]
    );
}

#[test]
fn chain_with_gap_refused() {
    let catalog = catalog(3, &[(1, 2, 5), (2, 3, 5)], None);
    assert!(Chain::new(Vec::new()).is_none());
    assert!(Chain::new(vec![catalog.archives[1].clone(), catalog.archives[0].clone()]).is_none());
}
