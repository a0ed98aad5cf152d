# Without its key the tunnel does not come up, and the confined service does not run; with the key both do.
{ prologue, ... }:
{
  name = "wgns-missing-key";
  imports = [ ./nodes.nix ];

  testScript = ''
    ${prologue}
    machine.wait_until_succeeds("systemctl is-failed wg")
    assert "wg.key" in machine.succeed("journalctl --unit wg")
    machine.fail("systemctl is-active confined")

    add_key()
    machine.succeed("systemctl start wg")
    machine.wait_for_unit("confined.service")
    machine.wait_until_succeeds(inside("curl -sS --max-time 5 http://10.64.0.1"))
  '';
}
