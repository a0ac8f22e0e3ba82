//! The claims held to their seeds, and to some changes of each: what `cargo xtask fuzz` does at length.

use std::path::Path;

use super::CLAIMS;

/// Changes of each seed. All claims together take a few seconds.
const CHANGES: usize = 150;
/// What means something to one parser or another.
const WORDS: [&[u8]; 12] = [
    b"\r\n",
    b"\n",
    b"\0",
    b"..",
    b"//",
    b"%2e",
    b":",
    b",",
    b"\"",
    b"*",
    b"\xff\xff\xff\xff",
    b"0",
];

#[test]
fn claims_hold_for_seeds_and_what_is_like_them() {
    for (name, claim) in CLAIMS {
        let seeds = seeds(name);
        assert!(!seeds.is_empty(), "fuzz/seeds/{name} has none");
        let mut chance = Chance(0x9e37_79b9_7f4a_7c15);
        claim(&[]);
        for seed in &seeds {
            claim(seed);
            for _ in 0..CHANGES {
                let changed = changed(seed, &mut chance);
                let held = std::panic::catch_unwind(|| claim(&changed));
                assert!(held.is_ok(), "{name}: {}", changed.escape_ascii());
            }
        }
    }
}

#[test]
fn every_claim_has_a_target() {
    for (name, _) in CLAIMS {
        let target = format!("{}/../fuzz/fuzz_targets/{name}.rs", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(&target).expect(&target);
        assert!(text.contains(&format!("\"{name}\"")), "{target}");
    }
}

/// In the order of their names: each run does the same.
fn seeds(name: &str) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds").join(name);
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).expect("a seed")).collect()
}

fn changed(seed: &[u8], chance: &mut Chance) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=chance.below(4) {
        let at = chance.below(bytes.len() + 1);
        let end = (at + chance.below(9)).min(bytes.len());
        match chance.below(5) {
            0 => drop(bytes.drain(at..end)),
            1 => drop(bytes.splice(at..at, WORDS[chance.below(WORDS.len())].iter().copied())),
            2 => bytes.truncate(at),
            3 => bytes.extend_from_within(at..end),
            _ => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << chance.below(8)),
        }
    }
    bytes
}

/// xorshift64: the same numbers in each run.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}
