//! Where build.rs finds llama.cpp's source, in the layouts that Cargo has for packages.

use std::fs;
use std::path::{Path, PathBuf};

use crate::source::{Pin, Source};

const PIN: Pin = Pin {
    package: "carrier",
    version: "1.2.3",
};

/// Writes a package of the pinned name as Cargo unpacks it.
fn unpack(directory: &Path, version: &str) {
    fs::create_dir_all(directory.join("llama.cpp/include")).unwrap();
    fs::write(directory.join("llama.cpp/include/llama.h"), "").unwrap();
    let manifest = format!(
        "# generated\n[package]\nname = \"carrier\"\nversion = \"{version}\"\n\n\
         [dependencies.cc]\nversion = \"9\"\n"
    );
    fs::write(directory.join("Cargo.toml"), manifest).unwrap();
}

fn find(manifest_dir: &Path, cargo_home: Option<&Path>) -> Result<PathBuf, String> {
    Source::find(PIN, manifest_dir, cargo_home).map(|source| {
        assert_eq!(source.name, "carrier 1.2.3");
        source.root
    })
}

#[test]
fn the_source_is_found_next_to_a_package_of_the_registry_or_of_a_vendor_folder() {
    for (ours, theirs) in [
        ("llama-diffusion-0.1.0", "carrier-1.2.3"),
        ("llama-diffusion", "carrier"),
        ("llama-diffusion", "carrier-1.2.3"),
    ] {
        let packages = tempfile::tempdir().unwrap();
        unpack(&packages.path().join(theirs), "1.2.3");
        assert_eq!(
            find(&packages.path().join(ours), None),
            Ok(packages.path().join(theirs).join("llama.cpp"))
        );
    }
}

#[test]
fn a_checkout_takes_the_source_from_any_registry_in_cargos_home() {
    let (home, checkout) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let registries = home.path().join("registry/src");
    fs::create_dir_all(registries.join("a-mirror")).unwrap();
    let package = registries.join("index.crates.io-0/carrier-1.2.3");
    unpack(&package, "1.2.3");
    assert_eq!(
        find(checkout.path(), Some(home.path())),
        Ok(package.join("llama.cpp"))
    );
}

#[test]
fn another_version_is_not_taken_and_the_error_says_what_to_do() {
    let packages = tempfile::tempdir().unwrap();
    unpack(&packages.path().join("carrier"), "1.2.4");
    unpack(&packages.path().join("carrier-1.2.3"), "9.9.9");
    let error = find(&packages.path().join("llama-diffusion"), None).unwrap_err();
    for part in [
        "carrier 1.2.3",
        packages.path().to_str().unwrap(),
        "`cargo fetch`",
        "LLAMA_CPP_DIR",
    ] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn a_package_without_the_source_is_not_taken() {
    let packages = tempfile::tempdir().unwrap();
    let package = packages.path().join("carrier");
    unpack(&package, "1.2.3");
    fs::remove_file(package.join("llama.cpp/include/llama.h")).unwrap();
    assert!(find(&packages.path().join("llama-diffusion"), None).is_err());
}

/// The package that pins the source is found by its version, which therefore is the version of what
/// it pins.
#[test]
fn the_pin_has_the_version_of_what_it_pins() {
    let lock = fs::read_to_string("Cargo.lock").unwrap();
    let version = |name: &str| {
        let (_, package) = lock.split_once(&format!("name = \"{name}\"\n")).unwrap();
        package.lines().next().unwrap().to_owned()
    };
    assert_eq!(version("llama-diffusion-src"), version("llama-cpp-sys-2"));
}
