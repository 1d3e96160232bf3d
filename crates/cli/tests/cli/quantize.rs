//! `llama-diffusion-cli quantize` from outside.

use std::fs;
use std::path::Path;
use std::process::Output;

use llama_diffusion::gguf::TensorType;
use llama_diffusion::gguf::{Gguf, Value};
use llama_diffusion::internal::synthetic::{Geometry, WeightTypes, write_synthetic};
use tempfile::TempDir;

use crate::common;

fn quantize(dir: &TempDir, args: &[&str]) -> Output {
    let mut command = common::tool();
    command.current_dir(dir).arg("quantize").args(args);
    command.output().unwrap()
}

fn model() -> TempDir {
    let dir = TempDir::new().unwrap();
    let types = WeightTypes::Uniform(TensorType::BF16);
    write_synthetic(&dir.path().join("in.gguf"), &Geometry::tiny(), types, 1).unwrap();
    dir
}

fn type_of(path: &Path, tensor: &str) -> TensorType {
    let gguf = Gguf::open(path).unwrap();
    gguf.tensor(tensor).unwrap().info.ty
}

#[test]
fn the_command_line_of_llama_quantize() {
    let dir = model();
    let out = dir.path().join("out.gguf");
    for (line, file_type, attention, down, embedding) in [
        ("in.gguf out.gguf Q8_0", 7, "q8_0", "q8_0", "q8_0"),
        ("in.gguf out.gguf q4_k_m 1", 15, "q5_0", "q8_0", "q8_0"),
        ("in.gguf out.gguf 15", 15, "q5_0", "q8_0", "q8_0"),
        ("in.gguf out.gguf q4_k -t 1", 15, "q5_0", "q8_0", "q8_0"),
        (
            "--pure in.gguf out.gguf q4_k_m 2",
            15,
            "q5_0",
            "q5_0",
            "q5_0",
        ),
        (
            "--leave-output-tensor in.gguf out.gguf q4_0",
            2,
            "q4_0",
            "q4_0",
            "bf16",
        ),
        (
            "--output-tensor-type q5_1 in.gguf out.gguf q4_0",
            2,
            "q4_0",
            "q4_0",
            "q5_1",
        ),
        (
            "--token-embedding-type F16 in.gguf out.gguf q4_0",
            2,
            "q4_0",
            "q4_0",
            "f16",
        ),
        (
            "--tensor-type attn_.=Q8_0 --tensor-type down=f16 in.gguf out.gguf q4_0",
            2,
            "q8_0",
            "f16",
            "q8_0",
        ),
    ] {
        let output = quantize(&dir, &line.split(' ').collect::<Vec<_>>());
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{line}: {stderr}");
        assert!(output.stdout.is_empty(), "{line}");
        let gguf = Gguf::open(&out).unwrap();
        assert_eq!(
            gguf.value("general.file_type"),
            Some(Value::U32(file_type)),
            "{line}"
        );
        let types = [
            "blk.0.attn_q.weight",
            "blk.2.ffn_down.weight",
            "token_embd.weight",
        ]
        .map(|tensor| type_of(&out, tensor).name());
        assert_eq!(types, [attention, down, embedding], "{line}");
        assert!(
            stderr.contains("out.gguf: ") && stderr.contains("bits per weight"),
            "{stderr}"
        );
    }
}

#[test]
fn mistakes_are_named() {
    let dir = model();
    fs::write(dir.path().join("imatrix.dat"), b"nonsense").unwrap();
    for (line, parts) in [
        (
            "in.gguf out.gguf q4_k_n",
            &[
                "'Q4_K_N'",
                "Q6_K, Q5_K_M, Q4_K_M",
                "a similar value exists: 'Q4_K_M'",
            ][..],
        ),
        ("in.gguf out.gguf", &["<TYPE>"]),
        ("in.gguf out.gguf q8_0 2 -t 2", &["NTHREADS", "--threads"]),
        (
            "none.gguf out.gguf q8_0",
            &["error: none.gguf", "No such file"],
        ),
        (
            "in.gguf in.gguf q8_0",
            &["error: in.gguf: is the model itself"],
        ),
        (
            "in.gguf no/out.gguf q8_0",
            &["error: no: No such file or directory (os error 2)\n"],
        ),
        (
            "in.gguf imatrix.dat q8_0 --imatrix imatrix.dat",
            &["error: imatrix.dat: is the importance matrix itself"],
        ),
        (
            "in.gguf out.gguf q8_0 --imatrix none.dat",
            &["error: none.dat", "No such file"],
        ),
        (
            "in.gguf out.gguf q8_0 --imatrix imatrix.dat",
            &["error: imatrix.dat", "importance matrix"],
        ),
        (
            "in.gguf out.gguf q8_0 --tensor-type ffn",
            &["--tensor-type", "ffn_down=q6_k"],
        ),
        (
            "in.gguf out.gguf q8_0 --tensor-type ffn=q9",
            &["unknown tensor type 'q9'"],
        ),
        (
            "in.gguf out.gguf q8_0 --tensor-type nothing=q8_0",
            &["--tensor-type", "'nothing'"],
        ),
    ] {
        let output = quantize(&dir, &line.split(' ').collect::<Vec<_>>());
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{line}: {stderr}");
        for part in parts {
            assert!(
                stderr.contains(part),
                "{line}: {part:?} is not in {stderr:?}"
            );
        }
    }
    // A failed run leaves nothing.
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
}

#[test]
fn a_type_that_does_not_divide_the_rows_is_reported() {
    let dir = model();
    let warnings = |flags: &str| {
        let line = format!("in.gguf out.gguf q8_0 {flags}");
        let output = quantize(&dir, &line.split(' ').collect::<Vec<_>>());
        assert_eq!(output.status.code(), Some(0), "{line}");
        let stderr = String::from_utf8(output.stderr).unwrap();
        let told = stderr.lines().filter(|line| line.contains(" stands for "));
        told.map(str::to_owned).collect::<Vec<_>>()
    };
    let told = warnings("--token-embedding-type q4_k --tensor-type attn_q=q6_k");
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].contains("q5_0 stands for q4_K") && told[0].contains("token_embd.weight"));
    assert!(told[1].contains("q8_0 stands for q6_K") && told[1].contains("blk.0.attn_q.weight"));
    assert!(warnings("--token-embedding-type q5_0").is_empty());
}
