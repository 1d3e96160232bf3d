//! Mutated model files, at least twenty thousand: each loads or gives an error, and none of them
//! stops the process.
//!
//! Mutations and their order are the same in every run.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use llama_diffusion::gguf::Gguf;
use llama_diffusion::gguf::TensorType;
use llama_diffusion::internal::gguf::Encoded;
use llama_diffusion::internal::llama::check_tokenizer;
use llama_diffusion::internal::model::Hparams;
use llama_diffusion::internal::model::TensorTable;
use llama_diffusion::internal::synthetic::{Geometry, min_vocab_size};
use llama_diffusion::model::file::ModelFile;
use llama_diffusion::{Error, Result};
use llama_diffusion_testing::model_file::{Editable, load};

/// Of bytes, and of keys, values and tensors.
const MUTATIONS: [usize; 2] = [16_000, 8_000];
/// Of the files that pass all checks, one in this number is really loaded.
const LOADED: usize = 8;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len())]
    }
}

/// Numbers that often cause errors.
const EXTREMES: [u64; 20] = [
    0,
    1,
    2,
    3,
    5,
    8,
    13,
    32,
    33,
    255,
    256,
    65_535,
    65_536,
    1 << 30,
    i32::MAX as u64,
    1 << 31,
    u32::MAX as u64,
    1 << 32,
    i64::MAX as u64,
    u64::MAX,
];

/// The smallest models there are.
fn originals() -> Vec<Editable> {
    let small = Geometry {
        n_layers: 2,
        d: 32,
        d_ff: 32,
        n_heads: 2,
        n_kv_heads: 1,
        head_dim: 16,
        head_dim_full: 16,
        n_experts: 2,
        n_experts_used: 1,
        vocab_size: min_vocab_size(),
        ..Geometry::tiny()
    };
    let other = Geometry {
        fused_experts: false,
        tied_output: false,
        full_layers_have_v: true,
        ..small.clone()
    };
    [small, other].iter().map(Editable::generated).collect()
}

/// Changes some bytes, mostly in front of the tensor data.
fn mutate_bytes(bytes: &mut Vec<u8>, head: usize, random: &mut Random) {
    for _ in 0..=random.below(3) {
        let reach = if random.below(20) == 0 {
            bytes.len()
        } else {
            head.min(bytes.len())
        };
        let at = random.below(reach);
        match random.below(8) {
            0 | 1 => bytes[at] ^= 1 << random.below(8),
            2 => bytes[at] = random.next() as u8,
            3 | 4 => {
                let number = random.pick(&EXTREMES).to_le_bytes();
                let end = bytes.len().min(at + [4, 8][random.below(2)]);
                bytes[at..end].copy_from_slice(&number[..end - at]);
            }
            5 => bytes.truncate(at.max(1)),
            6 => {
                let len = random.below(40).min(bytes.len() - at);
                let from = random.below(bytes.len() - len);
                bytes.copy_within(from..from + len, at);
            }
            _ => {
                let end = at + random.below(40).min(bytes.len() - at);
                bytes.drain(at..end);
            }
        }
        if bytes.is_empty() {
            return;
        }
    }
}

fn random_value(random: &mut Random) -> Encoded {
    let number = *random.pick(&EXTREMES);
    let len = random.below(4);
    match random.below(12) {
        0..=2 => (number as u32).into(),
        3 => (number as i32).into(),
        4 => (number as u16).into(),
        5 => number.into(),
        6 => (*random.pick(&[0.0, -1.0, 1e-30, f32::MAX, f32::NAN, f32::INFINITY])).into(),
        7 => number.is_multiple_of(2).into(),
        8 => (*random.pick(&["", "gemma4", "gpt2", "llama", "\0", "{{ x"])).into(),
        9 => (0..len).map(|_| *random.pick(&EXTREMES) as i32).collect(),
        10 => (0..len).map(|_| random.below(2) == 0).collect(),
        _ => (0..len)
            .map(|_| *random.pick(&["a b", "ab", "", " "]))
            .collect(),
    }
}

/// Changes values, keys or tensors, so that the file as such stays well-formed.
fn mutate_parts(file: &mut Editable, keys: &[String], random: &mut Random) {
    for _ in 0..=random.below(2) {
        let key = random.pick(keys);
        let index = random.below(file.tensors.len());
        match random.below(9) {
            0..=3 => drop(file.metadata.set(key, random_value(random))),
            4 => drop(file.metadata.remove(key)),
            5 => {
                let other = random.pick(keys).clone();
                file.metadata.remove(key);
                file.metadata.set(other, random_value(random));
            }
            6 => drop(file.tensors.remove(index)),
            7 => {
                let tensor = file.tensors[index].clone();
                let mut shape = tensor.shape;
                *shape.last_mut().unwrap() = random.below(5);
                shape.swap(0, random.below(2));
                shape[0] = shape[0].next_multiple_of(256);
                let ty = *random.pick(TensorType::ALL);
                *file = file.clone().with_tensor(&tensor.name, &shape, ty);
            }
            _ => {
                let other = random.below(file.tensors.len());
                file.tensors.swap(index, other);
            }
        }
    }
}

/// Everything that is checked before ggml and libllama see a file.
fn check(bytes: Vec<u8>) -> Result<()> {
    let file = ModelFile::from_gguf(Gguf::parse(Path::new("mutated.gguf"), bytes)?);
    let hparams = Hparams::from_file(&file)?;
    let table = TensorTable::locate(&file, &hparams)?;
    check_tokenizer(file.metadata())?;
    // What the loader relies on.
    let checked = table.try_map(&mut |located| {
        let info = located.info;
        let rows: usize = info.shape[1..].iter().product();
        assert_eq!(
            Some(info.range.len()),
            info.ty.row_bytes(info.shape[0]).map(|row| row * rows)
        );
        assert!(info.range.end <= file.metadata().bytes().len());
        assert!(info.range.start.is_multiple_of(file.metadata().alignment()));
        Ok::<_, Error>(())
    })?;
    assert_eq!(checked.layers.len(), hparams.layers.len());
    Ok(())
}

#[test]
fn mutated_files_load_or_give_an_error() {
    let mut random = Random(1);
    let originals = originals();
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("mutated.gguf");
    let (mut files, mut good, mut loaded) = (0, 0, 0);
    let (mut malformed, mut bad_metadata, mut bad_tensors) = (0, 0, 0);
    for original in &originals {
        let bytes = original.to_bytes();
        let gguf = Gguf::parse(&path, bytes.clone()).unwrap();
        let keys: Vec<_> = gguf.metadata().map(|(key, _)| key.to_owned()).collect();
        let head = gguf.tensors().next().unwrap().info.range.start;
        for (kind, count) in MUTATIONS.into_iter().enumerate() {
            for _ in 0..count / originals.len() {
                let mut mutated = bytes.clone();
                if kind == 0 {
                    mutate_bytes(&mut mutated, head, &mut random);
                } else {
                    let mut file = original.clone();
                    mutate_parts(&mut file, &keys, &mut random);
                    mutated = file.to_bytes();
                }
                files += 1;
                let verdict = catch_unwind(AssertUnwindSafe(|| check(mutated.clone())));
                match verdict.unwrap_or_else(|_| panic!("file {files} panics")) {
                    Ok(()) => good += 1,
                    Err(Error::Gguf { .. }) => malformed += 1,
                    Err(Error::Metadata { .. } | Error::Unsupported { .. }) => bad_metadata += 1,
                    Err(Error::Tensor { .. }) => bad_tensors += 1,
                    Err(other) => panic!("file {files}: unexpected kind of error: {other}"),
                }
                if good > loaded * LOADED {
                    loaded += 1;
                    // The file remains if the process is stopped.
                    fs::write(&path, &mutated).unwrap();
                    match load(&path) {
                        // Only loading reads the data: norms of another type may contain NaN.
                        Err(Error::Tensor { problem, .. }) if problem.contains("not finite") => {}
                        Err(error) => panic!("file {files} is good, but: {error}"),
                        Ok(_) => {}
                    }
                }
            }
        }
    }
    println!(
        "{files} mutated files: {malformed} malformed, {bad_metadata} with bad metadata, {bad_tensors} with bad \
         tensors, {good} good, {loaded} of them loaded"
    );
    assert!(files >= 20_000);
    // Every layer of the checks rejects some files.
    assert!(
        [malformed, bad_metadata, bad_tensors, good]
            .iter()
            .all(|&share| share > files / 50)
    );
}
