# A rebuild with another configuration changes the tunnel as it is, and the confined service goes on.
{ prologue, ... }:
{
  name = "wgns-reload";
  imports = [ ./nodes.nix ];

  nodes.machine =
    { lib, ... }:
    {
      specialisation.changed.configuration.my.wireguard = {
        mtu = 1300;
        persistentKeepalive = lib.mkForce 2;
      };
    };

  testScript = ''
    ${prologue}
    add_key()
    machine.systemctl("start confined")
    machine.wait_for_unit("confined.service")
    before = machine.succeed("systemctl show --property InvocationID wg netns@wg confined")

    machine.succeed("/run/current-system/specialisation/changed/bin/switch-to-configuration test")
    link = machine.succeed(inside("ip link show wg"))
    assert "mtu 1300" in link, link
    assert machine.succeed(inside("wg show wg persistent-keepalive")).split()[-1] == "2"
    assert machine.succeed("systemctl show --property InvocationID wg netns@wg confined") == before
  '';
}
