# NixOS's own service starts confined, and looks up names by the tunnel, though nsncd would answer it from the host.
{ prologue, ... }:
{
  name = "wgns-transmission";
  imports = [ ./nodes.nix ];

  nodes.provider.services.dnsmasq = {
    enable = true;
    resolveLocalQueries = false;
    settings.address = "/tunnel.example/10.64.0.9";
  };

  nodes.machine =
    { pkgs, ... }:
    {
      environment.systemPackages = [ pkgs.getent ];
      my.wireguard.dns = [ "10.64.0.1" ];
      services.transmission = {
        enable = true;
        package = pkgs.transmission_4;
      };
      systemd.services.transmission.wireguardTunnel = "wg";
    };

  testScript = ''
    ${prologue}
    provider.wait_for_unit("dnsmasq.service")
    machine.wait_for_unit("nscd.service")
    add_key()
    machine.systemctl("start transmission")
    machine.wait_for_unit("transmission.service")
    machine.succeed("wgns check wg --unit transmission.service")

    lookup = "$(realpath $(command -v getent)) ahostsv4 tunnel.example"
    process = "$(systemctl show --property MainPID --value transmission)"
    machine.fail(lookup)
    found = machine.wait_until_succeeds(f"nsenter --net --mount --target {process} {lookup}")
    assert "10.64.0.9" in found, found
  '';
}
