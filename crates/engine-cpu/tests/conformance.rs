//! The CPU engine keeps the contract, with the same bits for any number of threads.

use regraft_engine::conformance::{GROUPS, Recorder, Tolerances};
use regraft_engine_cpu::CpuEngine;

/// Runs a group with one thread and with three.
fn run(group: &str) {
    let (_, group) = GROUPS.iter().find(|(name, _)| *name == group).expect("the suite has this group");
    let digests = [1, 3].map(|threads| {
        let engine = CpuEngine::new(threads).unwrap();
        let recorder = Recorder::new(&engine);
        group(&recorder, &Tolerances::default());
        recorder.digest()
    });
    assert_eq!(digests[0], digests[1], "three threads compute other bits than one");
}

macro_rules! groups {
    ($($group:ident),* $(,)?) => {
        $(#[test]
        fn $group() {
            run(stringify!($group));
        })*

        #[test]
        fn every_group_is_run() {
            let names: Vec<_> = GROUPS.iter().map(|(name, _)| *name).collect();
            assert_eq!(names, [$(stringify!($group)),*]);
        }
    };
}

groups!(
    devices,
    operations,
    losses,
    zoo,
    steps,
    updates,
    freezing,
    resuming,
    accumulation,
    clipping,
    averaging,
    masks,
    outputs,
    gradients,
    features,
    bytes,
    refusals,
    collectives,
    sharding,
);
