//! `include/llama_diffusion.h` is what cbindgen makes of `src/capi/`. `make header` runs this test
//! with `LLAMA_DIFFUSION_WRITE_HEADER` set, which writes it.

use std::path::Path;

/// In the order of the header.
const SOURCES: [&str; 9] = [
    "error", "library", "log", "device", "model", "text", "context", "generate", "reply",
];

fn generate(root: &Path) -> String {
    let config = cbindgen::Config::from_file(root.join("cbindgen.toml")).unwrap();
    let mut builder = cbindgen::Builder::new().with_config(config);
    for source in SOURCES {
        builder = builder.with_src(root.join(format!("src/capi/{source}.rs")));
    }
    let mut header = Vec::new();
    builder.generate().unwrap().write(&mut header);
    String::from_utf8(header).unwrap()
}

#[test]
fn the_header_is_up_to_date() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = root.join("include/llama_diffusion.h");
    let expected = generate(root);
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
    let header = generate(Path::new(env!("CARGO_MANIFEST_DIR")));
    for (name, value) in [
        ("MAJOR", env!("CARGO_PKG_VERSION_MAJOR")),
        ("MINOR", env!("CARGO_PKG_VERSION_MINOR")),
        ("PATCH", env!("CARGO_PKG_VERSION_PATCH")),
    ] {
        let line = format!("#define DIFFUSION_VERSION_{name} {value}\n");
        assert!(header.contains(&line), "not in the header: {line}");
    }
}
