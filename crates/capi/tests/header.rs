//! `include/llama_diffusion.h` is what cbindgen makes of `crates/capi/src`. `make header` runs this
//! test with `LLAMA_DIFFUSION_WRITE_HEADER` set, which writes it.

use std::path::Path;

/// In the order of the header.
const SOURCES: [&str; 18] = [
    "error",
    "library",
    "log",
    "device",
    "model",
    "text",
    "context",
    "draft",
    "scores",
    "template",
    "constraint",
    "params",
    "result",
    "generate",
    "reply",
    "edit",
    "infill",
    "form",
];

fn generate() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(root.join("cbindgen.toml")).unwrap();
    let mut builder = cbindgen::Builder::new().with_config(config);
    for source in SOURCES {
        builder = builder.with_src(root.join(format!("src/{source}.rs")));
    }
    let mut header = Vec::new();
    builder.generate().unwrap().write(&mut header);
    String::from_utf8(header).unwrap()
}

#[test]
fn the_header_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../include/llama_diffusion.h");
    let expected = generate();
    if std::env::var_os("LLAMA_DIFFUSION_WRITE_HEADER").is_some() {
        std::fs::write(&path, &expected).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == expected,
        "{} is stale: run `make header`",
        path.display()
    );
}

#[test]
fn the_header_has_this_version() {
    let header = generate();
    for (name, value) in [
        ("MAJOR", env!("CARGO_PKG_VERSION_MAJOR")),
        ("MINOR", env!("CARGO_PKG_VERSION_MINOR")),
        ("PATCH", env!("CARGO_PKG_VERSION_PATCH")),
    ] {
        let line = format!("#define DIFFUSION_VERSION_{name} {value}\n");
        assert!(header.contains(&line), "not in the header: {line}");
    }
}
