# The private key is in its file and in the kernel, and nowhere else.
{ prologue, privateKey, ... }:
{
  name = "wgns-key";
  imports = [ ./nodes.nix ];

  testScript = ''
    ${prologue}
    add_key()
    machine.succeed("systemctl start wg")
    machine.wait_for_unit("confined.service")

    found = machine.execute(
        "grep --recursive --devices=skip --files-with-matches --fixed-strings '${privateKey}'"
        " /etc /run/systemd $(nix-store --query --requisites /run/current-system)"
    )[1]
    assert not found, found
    assert "${privateKey}" not in machine.succeed("journalctl --boot")
    assert "${privateKey}" in machine.succeed(inside("wg show wg private-key"))
  '';
}
