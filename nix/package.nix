# The programs, their units, and the library that nixpkgs lacks
{
  coreutils,
  lib,
  libseccomp,
  python3Packages,
  systemd,
  testers,
}:
python3Packages.buildPythonApplication (finalAttrs: {
  pname = "wgns-helpers";
  version = "0.2.0";
  pyproject = true;

  # What the package is made of: a change elsewhere, in nix/ say, does not build it anew.
  src = lib.fileset.toSource {
    root = ../.;
    fileset = lib.fileset.unions [
      ../LICENSE
      ../README.md
      ../bin
      ../completion
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

  # NixOS has no programs where systemd looks for them by name, and no /usr/lib.
  postPatch = ''
    sed --in-place "s,^\(Exec[A-Za-z]*=\)\(netns\|wg\),\1$out/bin/\2," systemd/*.service
    substituteInPlace wgns_helpers/confined-service.conf --replace-fail "wgns check NAME" "$out/bin/wgns check NAME"
    substituteInPlace systemd/wg-confined@.service --replace-fail ExecStart=true ExecStart=${coreutils}/bin/true
    substituteInPlace wgns_helpers/publish.service --replace-fail /usr/lib/systemd ${systemd}/lib/systemd
    substituteInPlace wgns_helpers/reach.service --replace-fail /usr/lib/systemd ${systemd}/lib/systemd
    substituteInPlace wgns_helpers/check.py --replace-fail libseccomp.so.2 ${lib.getLib libseccomp}/lib/libseccomp.so.2
  '';

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

  # Virtual machines, one for each behavior
  passthru.tests =
    lib.genAttrs
      [
        "confined"
        "key"
        "missing-key"
        "reload"
        "transmission"
      ]
      (
        name:
        testers.runNixOSTest {
          imports = [ (./tests + "/${name}.nix") ];
          nodes.machine.my.wireguard.package = finalAttrs.finalPackage;
        }
      );

  meta = {
    description = "Confine a systemd service to a WireGuard tunnel: netns-up, netns-down, wg-up, wg-down";
    license = lib.licenses.agpl3Plus;
    platforms = lib.platforms.linux;
    mainProgram = "wg-up";
  };
})
