# The four programs, and the library that nixpkgs lacks
{
  lib,
  python3Packages,
}:
python3Packages.buildPythonApplication (finalAttrs: {
  pname = "wgns-helpers";
  version = lib.head (builtins.match ".*__version__ = \"([^\"]+)\".*" (lib.readFile ../wgns_helpers/__init__.py));
  pyproject = true;

  # What the package is made of: a change elsewhere, in nix/ say, does not build it anew.
  src = lib.fileset.toSource {
    root = ../.;
    fileset = lib.fileset.unions [
      ../LICENSE
      ../README.md
      ../bin
      ../man
      ../pyproject.toml
      ../setup.cfg
      ../systemd
      ../tests/__init__.py
      ../tests/support.py
      ../tests/test_config.py
      ../tests/test_netlink.py
      ../wgns_helpers
    ];
  };

  build-system = [ python3Packages.setuptools ];
  dependencies = [
    python3Packages.pyroute2
    (python3Packages.wgconfig or (python3Packages.callPackage ./wgconfig.nix { }))
  ];

  # The tests that need no privilege, no network and no checkout
  nativeCheckInputs = [
    python3Packages.hypothesis
    python3Packages.pytestCheckHook
  ];
  pythonImportsCheck = [ "wgns_helpers" ];

  meta = {
    description = "Confine a systemd service to a WireGuard tunnel: netns-up, netns-down, wg-up, wg-down";
    license = lib.licenses.agpl3Plus;
    platforms = lib.platforms.linux;
    mainProgram = "wg-up";
  };
})
