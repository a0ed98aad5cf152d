# The tunnel comes up, and of all networks the confined service reaches only what is behind it.
{ prologue, ... }:
{
  name = "wgns-confined";
  imports = [ ./nodes.nix ];

  testScript = ''
    ${prologue}
    add_key()
    machine.systemctl("start confined")
    machine.wait_for_unit("confined.service")

    with subtest("the service reaches the far side by the tunnel's address"):
        assert machine.wait_until_succeeds(inside("curl -sS --max-time 5 http://10.64.0.1")).strip() == "10.64.0.2"

    with subtest("it has no links but lo and the tunnel's"):
        links = machine.succeed(inside("ip -brief link"))
        assert "eth" not in links, links

    with subtest("without a far side nothing is reached, though the host reaches it"):
        provider.succeed("ip link set wg0 down")
        machine.succeed("curl -sS --max-time 5 http://provider")
        machine.fail(inside("curl -sS --max-time 5 http://$(getent ahostsv4 provider | head -n 1 | cut -d ' ' -f 1)"))

    with subtest("without a tunnel the service is stopped"):
        machine.succeed("systemctl stop wg")
        machine.wait_until_succeeds("[ $(systemctl is-active confined) = inactive ]")
  '';
}
