//! The instruction sets that the CPU backend was compiled for, as Rust code that checks the running
//! processor for them.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Macros by which compilers report instruction sets that they may use on their own, and the names
/// of these sets in Rust.
const X86: [(&str, &str); 28] = [
    ("__SSE3__", "sse3"),
    ("__SSSE3__", "ssse3"),
    ("__SSE4_1__", "sse4.1"),
    ("__SSE4_2__", "sse4.2"),
    ("__POPCNT__", "popcnt"),
    ("__AVX__", "avx"),
    ("__F16C__", "f16c"),
    ("__FMA__", "fma"),
    ("__AVX2__", "avx2"),
    ("__BMI__", "bmi1"),
    ("__BMI2__", "bmi2"),
    ("__LZCNT__", "lzcnt"),
    ("__MOVBE__", "movbe"),
    ("__GFNI__", "gfni"),
    ("__AVXVNNI__", "avxvnni"),
    ("__AVX512F__", "avx512f"),
    ("__AVX512CD__", "avx512cd"),
    ("__AVX512BW__", "avx512bw"),
    ("__AVX512DQ__", "avx512dq"),
    ("__AVX512VL__", "avx512vl"),
    ("__AVX512IFMA__", "avx512ifma"),
    ("__AVX512VBMI__", "avx512vbmi"),
    ("__AVX512VBMI2__", "avx512vbmi2"),
    ("__AVX512VNNI__", "avx512vnni"),
    ("__AVX512BITALG__", "avx512bitalg"),
    ("__AVX512VPOPCNTDQ__", "avx512vpopcntdq"),
    ("__AVX512BF16__", "avx512bf16"),
    ("__AVX512FP16__", "avx512fp16"),
];
const ARM: [(&str, &str); 8] = [
    ("__ARM_FEATURE_ATOMICS", "lse"),
    ("__ARM_FEATURE_CRC32", "crc"),
    ("__ARM_FEATURE_DOTPROD", "dotprod"),
    ("__ARM_FEATURE_FP16_VECTOR_ARITHMETIC", "fp16"),
    ("__ARM_FEATURE_MATMUL_INT8", "i8mm"),
    ("__ARM_FEATURE_BF16", "bf16"),
    ("__ARM_FEATURE_SVE", "sve"),
    ("__ARM_FEATURE_SVE2", "sve2"),
];

/// An expression of the type `&[(&str, bool)]`: each instruction set of `macros` (one `#define` a
/// line), and whether the processor has it.
pub fn code(macros: &str, target_arch: &str) -> String {
    let (table, detect) = match target_arch {
        "x86_64" => (&X86[..], "is_x86_feature_detected"),
        "aarch64" => (&ARM[..], "is_aarch64_feature_detected"),
        _ => (&[][..], ""),
    };
    let defined: Vec<&str> = macros
        .lines()
        .filter_map(|line| line.strip_prefix("#define ")?.split(' ').next())
        .collect();
    let entries: String = table
        .iter()
        .filter(|(name, _)| defined.contains(name))
        .map(|(_, feature)| format!("    (\"{feature}\", std::arch::{detect}!(\"{feature}\")),\n"))
        .collect();
    format!("&[\n{entries}]\n")
}

/// The macros that the compiler defines for the CPU backend's files. None if there is a plug-in for
/// each kind of processor (ggml chooses among them), and none from compilers that cannot list them.
pub fn macros(build_dir: &Path) -> Result<String, String> {
    let file = build_dir.join("compile_commands.json");
    let Ok(list) = fs::read(&file) else {
        return Ok(String::new()); // of cmake's generators, Ninja and Makefiles write it
    };
    let failed = |problem: String| format!("{}: {problem}", file.display());
    let list: Value = serde_json::from_slice(&list).map_err(|error| failed(error.to_string()))?;
    let text = |entry: &Value, key: &str| entry[key].as_str().unwrap_or_default().to_owned();
    let entries = list.as_array().into_iter().flatten();
    let command = entries
        .map(|entry| (text(entry, "directory"), text(entry, "command")))
        .find(|(_, command)| {
            command.contains("CMakeFiles/ggml-cpu.dir/") && command.ends_with("ggml-cpu.cpp")
        });
    let Some((directory, command)) = command else {
        return Ok(String::new());
    };
    if !cfg!(unix) {
        return Ok(String::new());
    }
    let flags = command.split(" -o ").next().unwrap_or_default();
    let output = Command::new("sh")
        .arg("-c")
        .arg(format!("{flags} -E -dM -x c++ /dev/null"))
        .current_dir(directory)
        .output()
        .map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        let problem = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(failed(format!("the compiler lists no macros: {problem}")));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
